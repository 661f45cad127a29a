//! The embedded film API: the receiving end of the line for demos, tests and small plants, on SQLite.
//!
//! | Request | Answer |
//! |---|---|
//! | `POST /seq/` `{}` | 201 `{"id": n}`; the same `Idempotency-Key` again: the same id, for the last 65,536 keys at least |
//! | `POST /films/` `{"id": n, "machine": "…", "data": "…"}` | 201 `{"id": n}`; without `id` the next number is taken |
//! | the same `Idempotency-Key` again | 201 with the id of the row that is there; no second row |
//! | the same id under another key, or with other content | 409 |
//! | anything malformed | 400 `{"error": "…"}` |
//! | `GET /films/ID/` | 200 `{"position", "id", "machine", "data", "received_at_us"}`, or 404 |
//! | `GET /films/?after=POSITION&limit=N` | 200 `{"films": […], "next": POSITION}` in the order of arrival |
//! | `GET /` | a page that shows records as they arrive |
//!
//! Requests are served by one thread; `store` owns another one, which writes all rows that wait in one transaction and
//! answers after its commit. Ids come from memory, `sequence` reserves them on disk in blocks, so that none is ever handed
//! out twice, not after a crash either.

mod api;
mod sequence;
mod store;

pub use api::{Receiver, serve};
pub use store::{Durability, StoreError, Totals};
