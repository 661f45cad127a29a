//! The ingest side: `POST` or `PUT /v1/records/SOURCE`, or `GET` of it where a source takes that,
//! one [`ServerConnection`] for each connection of a machine.
//!
//! It owns the bytes of a request that is not whole yet and the answers that wait for their turn; it never owns a record.
//! What is wrong with a request is answered here, in order behind the answers before it, and its owner never sees it.
//! A request that came whole is lent from the bytes it came in; only what is unfinished is copied, so an idle connection
//! holds no buffer at all. Who sends it is judged by its owner as soon as its head is whole ([`Ruling`]).

mod answer;
mod connection;
mod door;
mod forms;
mod head;
mod keeps;
mod limits;
mod reading;
mod split;

pub use answer::{Part, TryLater, shown};
pub use connection::{Awaited, Output, Request, ServerConnection, Stranger, Turned, Verdict};
pub use door::{Caller, Denied, Last, Once, Ruling};
pub use forms::{Array, Details, Forms, Query, Rules};
pub use keeps::{Keeps, NotKept};
pub use limits::Limits;
pub use split::{Form, Piece};
