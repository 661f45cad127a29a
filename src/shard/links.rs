//! The connections and ports of a shard: which file each has, and whose it is. What an owner knows
//! of a link lies in a table of that owner, by the same index.

use super::{Fd, LinkId};

/// Whose a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A serial port, an incoming or an outgoing TCP connection: bytes to be framed.
    Stream,
    /// An HTTP machine.
    Http,
    /// A connection of a proxy: which of both it is, and whose, its first bytes tell.
    Proxied,
    /// A connection to the API.
    Api,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The index is free.
    Free,
    /// In use, or on its way to be.
    Open(Kind),
    /// [`Op::Close`](super::Op::Close) was asked for.
    Closing,
}

#[derive(Debug)]
struct Link {
    generation: u32,
    fd: Option<Fd>,
    state: State,
}

// Ten thousand of them are looked at in turn.
const _: () = assert!(size_of::<Link>() <= 16);

/// Links by index, with the generations that tell stale ids. It gives indexes out and takes them
/// back; it emits nothing.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: Vec<Link>,
    free: Vec<u32>,
    /// Links that are to be closed since this was last asked for.
    ended: Vec<LinkId>,
}

impl Links {
    /// A new link; without a file while that is being opened.
    pub fn open(&mut self, kind: Kind, fd: Option<Fd>) -> LinkId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.links.push(Link { generation: 0, fd: None, state: State::Free });
            (self.links.len() - 1) as u32
        });
        let link = &mut self.links[index as usize];
        assert_eq!(link.state, State::Free);
        link.generation = (link.generation + 1) & 0x00FF_FFFF;
        link.fd = fd;
        link.state = State::Open(kind);
        LinkId { index, generation: link.generation }
    }

    fn find(&self, id: LinkId) -> Option<&Link> {
        self.links.get(id.index as usize).filter(|link| link.generation == id.generation)
    }

    fn find_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(id.index as usize).filter(|link| link.generation == id.generation)
    }

    /// Whose a link is; `None` for a stale id, and from the close on.
    pub fn kind(&self, id: LinkId) -> Option<Kind> {
        match self.find(id)?.state {
            State::Open(kind) => Some(kind),
            State::Free | State::Closing => None,
        }
    }

    /// Whether a link is of this kind and not being closed.
    pub fn is_open(&self, id: LinkId, kind: Kind) -> bool {
        self.kind(id) == Some(kind)
    }

    /// Its file, as far as it is open.
    pub fn fd(&self, id: LinkId) -> Option<Fd> {
        self.find(id)?.fd
    }

    /// Its file has come.
    pub fn set_fd(&mut self, id: LinkId, fd: Fd) {
        self.find_mut(id).expect("a link that is being opened").fd = Some(fd);
    }

    /// It is known whose an accepted connection is.
    pub fn turn_into(&mut self, id: LinkId, kind: Kind) {
        let link = self.find_mut(id).filter(|link| link.state == State::Open(Kind::Proxied));
        link.expect("a link that is open and of a proxy").state = State::Open(kind);
    }

    /// It is to be closed: its file, if that is open. `None` where it is closed already, or being
    /// closed.
    pub fn begin_close(&mut self, id: LinkId) -> Option<Option<Fd>> {
        let link = self.find_mut(id).filter(|link| matches!(link.state, State::Open(_)))?;
        link.state = State::Closing;
        let fd = link.fd;
        self.ended.push(id);
        Some(fd)
    }

    /// Links of which nothing is to be known any more: their owners forget them.
    pub fn take_ended(&mut self) -> Vec<LinkId> {
        let mut ended = std::mem::take(&mut self.ended);
        // One that was closed within the turn may be another one by now.
        ended.retain(|id| self.find(*id).is_some());
        ended
    }

    /// Frees an index whose file is closed, or was never opened.
    pub fn remove(&mut self, id: LinkId) {
        let link = self.find_mut(id).expect("a link is freed once");
        assert_ne!(link.state, State::Free);
        link.state = State::Free;
        link.fd = None;
        self.free.push(id.index);
    }

    /// All links in use, those that are being closed too, by index.
    pub fn ids(&self) -> impl Iterator<Item = LinkId> {
        let used = self.links.iter().enumerate().filter(|(_, link)| link.state != State::Free);
        used.map(|(index, link)| LinkId { index: index as u32, generation: link.generation })
    }

    /// All links of a kind that are not being closed, by index.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = LinkId> {
        self.ids().filter(move |id| self.is_open(*id, kind))
    }

    /// Number of links in use.
    pub fn len(&self) -> usize {
        self.links.len() - self.free.len()
    }

    /// That free and used indexes add up.
    pub fn check(&self) {
        let free = self.links.iter().filter(|link| link.state == State::Free).count();
        assert_eq!(free, self.free.len(), "links on the free list");
        assert!(self.free.iter().all(|index| self.links[*index as usize].state == State::Free));
    }
}

/// What one owner knows of its links, by their index. An entry stays until the end of the turn in
/// which its link is to be closed; whether it is still to be worked on, [`Links`] tell.
#[derive(Debug)]
pub(super) struct Table<T> {
    entries: Vec<Option<Box<T>>>,
    /// How many there are, so that nobody has to walk over thousands of them in each turn.
    count: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), count: 0 }
    }
}

impl<T> Table<T> {
    /// Of a new link.
    pub fn insert(&mut self, id: LinkId, entry: T) {
        let index = id.index as usize;
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || None);
        }
        assert!(self.entries[index].is_none(), "an index is used once at a time");
        self.entries[index] = Some(Box::new(entry));
        self.count += 1;
    }

    /// Of a link that is this owner's.
    pub fn of(&mut self, id: LinkId) -> &mut T {
        self.entries[id.index as usize].as_deref_mut().expect("the link is of this table's kind")
    }

    /// As [`Table::of`], to look at.
    pub fn get(&self, id: LinkId) -> &T {
        self.entries[id.index as usize].as_deref().expect("the link is of this table's kind")
    }

    /// As [`Table::get`], unless the link is being closed.
    pub fn find(&self, id: LinkId) -> Option<&T> {
        self.entries.get(id.index as usize)?.as_deref()
    }

    /// Of a link that becomes another owner's.
    pub fn take(&mut self, id: LinkId) -> T {
        self.count -= 1;
        *self.entries[id.index as usize].take().expect("the link is of this table's kind")
    }

    /// The link is being closed, or is: whatever it was, nothing is known of it any more.
    pub fn forget(&mut self, id: LinkId) {
        let forgotten = self.entries.get_mut(id.index as usize).and_then(Option::take);
        self.count -= usize::from(forgotten.is_some());
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        debug_assert_eq!(self.entries.iter().flatten().count(), self.count, "entries");
        self.count
    }
}
