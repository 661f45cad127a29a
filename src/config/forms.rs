//! The keys of an HTTP source about the forms in which machines send.

use super::nearest::nearest;
use super::problem::Refusal;
use super::walk::Section;
use crate::access::Proxies;
use crate::ground::KEPT_NAMES_MAX;
use crate::http::server::{Array, Forms, Keeps, NotKept, Query};
use std::sync::Arc;

/// What `lenient` may name.
const LENIENT: [&str; 1] = ["bare-lf"];
const LENIENT_REMEDY: &str = "a list of words, such as lenient = [\"bare-lf\"]";

/// What the source takes; to be asked of HTTP sources only.
pub(super) fn forms(section: &Section<'_, '_>, proxies: &Proxies) -> Forms {
    let get = get(section);
    let query = section.choice("query", &[("refuse", Query::Refuse), ("ignore", Query::Ignore)], Query::Refuse);
    let array = section.choice("array", &[("record", Array::Record), ("split", Array::Split)], Array::Record);
    let keeps = keeps(section);
    let mut forms = Forms { query, get, array, bare_lf: false, keeps };
    let Some(entry) = section.get("lenient") else { return forms };
    for (word, span) in entry.strings(LENIENT_REMEDY) {
        if word == "bare-lf" {
            forms.bare_lf = true;
            continue;
        }
        let refusal = Refusal::new("nothing is called so that can be read leniently", LENIENT_REMEDY);
        entry.refuse_element(&span, refusal.with_nearest(nearest(word, LENIENT)));
    }
    if forms.bare_lf && !proxies.is_empty() {
        let what =
            "a proxy and this source would see other ends of one request, and a machine could hide a second one in it";
        entry.refuse(Refusal::new(what, "either lenient or proxies in a source"));
    }
    forms
}

/// Whether a GET is a record. Links, images and what looks ahead for a browser's user make GETs, so that one must say who it is.
fn get(section: &Section<'_, '_>) -> bool {
    let get = section.boolean("get", false);
    let has_client_ca = section.get("tls").is_some_and(|entry| entry.item.get("client_ca").is_some());
    if get && section.get("tokens_file").is_none() && !has_client_ca {
        let what = "anybody's link or image makes a GET, and here none needs a token or a certificate";
        let remedy = "tokens_file = \"/etc/ringest/tokens\" in this source, with a line by `ringest token` for each device; or \
                      client_ca in its tls";
        section.refuse("get", Refusal::new(what, remedy));
    }
    get
}

/// The headers that are kept with each record.
fn keeps(section: &Section<'_, '_>) -> Option<Arc<Keeps>> {
    const REMEDY: &str = "a list of header names, such as keep_headers = [\"X-Lot\"]";
    let entry = section.get("keep_headers")?;
    let mut keeps = Keeps::default();
    for (name, span) in entry.strings(REMEDY) {
        let refusal = match Keeps::check(name) {
            Err(fault @ NotKept::Key) => {
                Refusal::new(fault.to_string(), "leave it out; {{machine_key|json}} in the body shows it")
            }
            Err(fault @ NotKept::Name) => Refusal::new(fault.to_string(), REMEDY),
            Err(fault) => Refusal::new(fault.to_string(), "leave it out"),
            Ok(()) if keeps.has(name) => {
                Refusal::new("this header stands here twice; case does not count", "each header once")
            }
            Ok(()) if keeps.names().count() == KEPT_NAMES_MAX => {
                Refusal::new("with this one they are too many", format!("at most {KEPT_NAMES_MAX} headers"))
            }
            Ok(()) => {
                keeps.add(name);
                continue;
            }
        };
        entry.refuse_element(&span, refusal);
    }
    (keeps != Keeps::default()).then(|| Arc::new(keeps))
}
