//! The connections and ports of a shard.

use super::reload::Rules;
use super::secure::Secure;
use super::{ApiId, Fd, LinkId, SourceId};
use crate::config::Flow;
use crate::delivery::Connection;
use crate::framing::{FrameFlags, Framer};
use crate::http::server::ServerConnection;
use crate::journal::OriginRef;
use crate::source::serial::Parmrk;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

/// One connection or port.
#[derive(Debug)]
pub(super) struct Link {
    pub generation: u32,
    pub fd: Option<Fd>,
    pub state: State,
}

/// What a link is for. The state is taken out while it is worked on.
#[derive(Debug)]
pub(super) enum State {
    /// The index is free.
    Free,
    /// [`Op::Close`](super::Op::Close) was asked for.
    Closing,
    /// The state is being worked on, further up the stack.
    Taken,
    /// A serial port, an incoming or an outgoing TCP connection: bytes to be framed.
    Stream(Box<Stream>),
    /// An HTTP machine.
    Http(Box<HttpMachine>),
    /// A connection to the API.
    Api(Box<ApiLink>),
}

/// Bytes to be framed.
#[derive(Debug)]
pub(super) struct Stream {
    pub source: SourceId,
    pub peer: Option<SocketAddr>,
    pub framer: Framer,
    /// Of a tty.
    pub parmrk: Option<Parmrk>,
    pub lane: Option<u32>,
    pub origin: Option<OriginRef>,
    /// Of a tty: what makes its machine wait.
    pub flow: Option<Flow>,
    /// What was read but not framed, since the journal was full; oldest first.
    pub held: VecDeque<Held>,
    /// What `held` costs; see [`Held::cost`].
    pub held_bytes: usize,
    /// It waits for room in the journal. Reading was stopped, or is being stopped, unless nothing holds the line back.
    pub paused: bool,
    /// XOFF was sent, and no XON since.
    pub told_to_wait: bool,
    /// More came than may be held: records of it were rejected.
    pub shedding: bool,
    /// A read is armed.
    pub reading: bool,
    /// The stream ended while `held` was not empty.
    pub ended: bool,
    /// The link's timer is set for an idle gap.
    pub is_watched: bool,
    /// Its source is retired and the peer was told: when it is closed, in monotonic nanoseconds; u64::MAX is never.
    pub leaving_ns: u64,
}

/// Bytes that wait to be framed, behind marks of the line. An idle gap before them is told by when they came.
#[derive(Debug)]
pub(super) struct Held {
    pub at_ns: u64,
    pub flags: FrameFlags,
    pub bytes: Vec<u8>,
}

impl Held {
    /// Memory that it takes, about, in bytes: a line may send single bytes.
    pub fn cost(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }
}

/// An HTTP machine.
#[derive(Debug)]
pub(super) struct HttpMachine {
    pub source: SourceId,
    pub connection: ServerConnection,
    pub lane: Option<u32>,
    pub origin: Option<OriginRef>,
    pub sending: bool,
    /// Listed to be looked at when the turn ends.
    pub dirty: bool,
    /// Listed to be looked at when something became durable.
    pub waiting: bool,
    /// Since when it waits so.
    pub waiting_since_ns: u64,
    pub closing: Closing,
    /// Reading was stopped, or is being stopped, since too many answers wait.
    pub paused: bool,
    pub reading: bool,
    /// When the link's timer is set for.
    pub timer_ns: u64,
}

/// How far an HTTP connection is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// It is not.
    No,
    /// The last answer is being sent.
    AfterSend,
    /// FIN was sent; what still comes is thrown away until the peer closes or the time is over.
    Lingering,
}

/// A connection to the API.
#[derive(Debug)]
pub(super) struct ApiLink {
    pub api: ApiId,
    pub connection: Connection,
    /// Those of an earlier configuration, by which its requests were sent; it takes no others until they are answered.
    pub rules: Option<Rc<Rules>>,
    /// Where the URL is `https`, from the end of the connect on.
    pub secure: Option<Box<Secure>>,
}

/// Links by index, with the generations that tell stale ids.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: Vec<Link>,
    free: Vec<u32>,
}

impl Links {
    /// A new link.
    pub fn insert(&mut self, fd: Option<Fd>, state: State) -> LinkId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.links.push(Link { generation: 0, fd: None, state: State::Free });
            (self.links.len() - 1) as u32
        });
        let link = &mut self.links[index as usize];
        assert!(matches!(link.state, State::Free));
        link.generation = (link.generation + 1) & 0x00FF_FFFF;
        link.fd = fd;
        link.state = state;
        LinkId { index, generation: link.generation }
    }

    /// The link of an id that is not stale.
    pub fn find(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(id.index as usize).filter(|link| link.generation == id.generation)
    }

    /// As [`Links::find`], to look at.
    pub fn get(&self, id: LinkId) -> Option<&Link> {
        self.links.get(id.index as usize).filter(|link| link.generation == id.generation)
    }

    /// Takes a link's state out, to be put back by [`Links::put`].
    pub fn take(&mut self, id: LinkId) -> Option<(Option<Fd>, State)> {
        let link = self.find(id)?;
        match link.state {
            State::Free | State::Closing => None,
            State::Taken => unreachable!("a link is worked on once at a time"),
            _ => Some((link.fd, std::mem::replace(&mut link.state, State::Taken))),
        }
    }

    /// Puts a state back, unless the link was closed meanwhile.
    pub fn put(&mut self, id: LinkId, state: State) {
        let link = &mut self.links[id.index as usize];
        if matches!(link.state, State::Taken) {
            link.state = state;
        }
    }

    /// Frees an index whose file is closed.
    pub fn remove(&mut self, id: LinkId) {
        let link = self.find(id).expect("a link is freed once");
        assert!(!matches!(link.state, State::Free));
        link.state = State::Free;
        link.fd = None;
        self.free.push(id.index);
    }

    /// All links in use.
    pub fn iter(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links
            .iter()
            .enumerate()
            .filter(|(_, link)| !matches!(link.state, State::Free))
            .map(|(index, link)| (LinkId { index: index as u32, generation: link.generation }, link))
    }

    /// Number of links in use.
    pub fn len(&self) -> usize {
        self.links.len() - self.free.len()
    }
}
