//! What requests are made by, and what their answers are judged by: one configuration of the
//! delivery, made ready for use.
//!
//! A connection with requests on it keeps the rules that they were sent by; they are passed to
//! whatever judges an answer.

use crate::config::{Batch, Deliver, Sequence, Settings, Url};
use crate::delivery::route::Pace;
use crate::delivery::template::Template;
use crate::http::client::{GetHead, MediaType, RequestHead};
use std::sync::Arc;
use std::time::Duration;

/// One configuration's rules. They never change.
#[derive(Debug)]
pub(super) struct Rules {
    /// Only `[deliver]` and `[sequence]` of it count; the ids of an earlier one's sources are not
    /// the present ones.
    settings: Arc<Settings>,
    /// What an answer that counts must be.
    pub answer_type: Option<MediaType>,
    pub template: Template,
    pub record_head: RequestHead,
    pub confirm_head: GetHead,
    pub id_head: Option<RequestHead>,
}

fn request_head(url: &Url, content_type: &str, headers: &[(String, Arc<str>)]) -> RequestHead {
    RequestHead::post(&url.target, &url.host_header, content_type, headers).expect("settings are checked")
}

impl Rules {
    pub fn new(settings: Arc<Settings>) -> Self {
        let deliver = &settings.deliver;
        let id_head = |sequence: &Sequence| request_head(&sequence.url, "application/json", &deliver.headers);
        Self {
            answer_type: deliver.answer_type.as_ref().map(|name| MediaType::parse(name.as_bytes())),
            template: Template::parse(&deliver.body, settings.sequence.is_some()).expect("settings are checked"),
            record_head: request_head(&deliver.url, &deliver.content_type, &deliver.headers),
            confirm_head: GetHead::new(&deliver.url.host_header, &deliver.headers).expect("settings are checked"),
            id_head: settings.sequence.as_ref().map(id_head),
            settings,
        }
    }

    pub fn deliver(&self) -> &Deliver {
        &self.settings.deliver
    }

    pub fn sequence(&self) -> Option<&Sequence> {
        self.settings.sequence.as_ref()
    }

    pub fn batch(&self) -> Option<&Batch> {
        self.settings.deliver.batch.as_ref()
    }

    /// Whether records need ids.
    pub fn has_ids(&self) -> bool {
        self.id_head.is_some()
    }

    /// Whether the service is asked what it has.
    pub fn asks(&self) -> bool {
        self.deliver().answers.confirm.is_some()
    }

    /// Delay before the first retry, and the longest.
    pub fn retry(&self) -> (Duration, Duration) {
        (self.deliver().retry_first, self.deliver().retry_max)
    }

    /// How long is waited between attempts.
    pub fn pace(&self) -> Pace {
        let Deliver { retry_first, retry_max, retry_after_max, .. } = *self.deliver();
        Pace { first: retry_first, max: retry_max, told_max: retry_after_max }
    }

    /// Ids that are asked for at a time, where they are leased.
    pub fn lease(&self) -> Option<u64> {
        self.sequence().map(|sequence| u64::from(sequence.lease)).filter(|lease| *lease > 1)
    }

    /// What tells one service that gives ids from another: a hash of where they are asked for
    /// (FNV-1a, 64 bits). Never 0, but where none gives any.
    pub fn id_origin(&self) -> u64 {
        let Some(sequence) = self.sequence() else { return 0 };
        let url = &sequence.url;
        let text = format!("{} {} {} {}", url.secure, url.authority.host, url.authority.port, url.target);
        let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, add).max(1)
    }

    /// Whether what a record is sent as differs.
    pub fn sends_otherwise(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.deliver(), other.deliver());
        let is_same = ours.body == theirs.body && ours.content_type == theirs.content_type && ours.key == theirs.key;
        !is_same || self.has_ids() != other.has_ids()
    }

    /// Whether anything differs.
    pub fn differ(&self, settings: &Settings) -> bool {
        *self.deliver() != settings.deliver || self.settings.sequence != settings.sequence
    }
}
