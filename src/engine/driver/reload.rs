//! A new configuration: listeners come, go, or change their source; the core hears of the rest.

use super::{Core, Driver, Listener, NewSettings};
use crate::engine::listen::watch_over;
use crate::shard::Now;
use socket2::SockRef;
use std::sync::Arc;

impl<C: Core> Driver<C> {
    /// Takes over other settings. A driver that is stopping closes what it was given, and the answer says so.
    pub(super) fn reload(&mut self, now: Now, new: NewSettings) {
        let NewSettings { reload, listeners, moved, answer } = new;
        if self.stopping {
            return;
        }
        self.settings = Arc::clone(&reload.settings);
        self.connector.forget();
        // Those that move first: their old source is among the retired ones.
        for (from, to) in moved {
            if let Some(index) = self.listener(from) {
                self.listeners[index].source = to;
            }
        }
        for retired in &reload.retired {
            if let Some(index) = self.listener(*retired) {
                self.close_listener(index);
            }
        }
        for (source, socket) in listeners {
            let free = self.listeners.iter_mut().find(|listener| listener.socket.is_none() && listener.armed == 0);
            let listener = Listener::new(source, socket);
            match free {
                Some(place) => *place = listener,
                None => self.listeners.push(listener),
            }
        }
        self.watch_over_listeners();
        let reloaded = self.core.reload(now, reload);
        self.carry();
        // Whoever waited for it may have gone.
        let _ = answer.send(reloaded);
    }

    /// What is accepted from now on is watched over as the settings say: it inherits from its listener.
    fn watch_over_listeners(&self) {
        for listener in &self.listeners {
            if let Some(socket) = &listener.socket {
                let tcp = &self.settings.sources[usize::from(listener.source.0)].tcp;
                let _ = watch_over(&SockRef::from(socket), tcp); // a socket takes what is in the bounds of its keys
            }
        }
    }
}
