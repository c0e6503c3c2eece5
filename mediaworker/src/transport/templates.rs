//! Media sections with header extensions of their own.
//!
//! str0m's direct API gives every media of an `Rtc` the one extension map that the
//! `Rtc` was built with, but clients negotiate extensions for each consumer: most
//! take transport-cc for video only, and what an audio packet carried in vain
//! would be reported as lost. A media is a value, though, that may be moved from
//! one `Rtc` to another. So there is an `Rtc` for each combination of what str0m
//! writes by itself, which never connects, and media are declared there and
//! exchanged for those of the transport.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use str0m::Rtc;
use str0m::config::DtlsCert;
use str0m::media::{MediaKind, Mid};

use super::crypto;
use super::extensions::{self, Automatic};
use super::slots::PayloadType;

/// What the router's consumers receive: fixed for all its transports.
#[derive(Debug, Default)]
pub struct RouterMedia {
    /// Payload types.
    pub codecs: Vec<PayloadType>,
    /// Extension ids and URIs.
    pub extensions: Vec<(u32, String)>,
    templates: RefCell<MediaTemplates>,
}

impl RouterMedia {
    /// Payload types, extension ids and URIs.
    pub fn new(codecs: Vec<PayloadType>, extensions: Vec<(u32, String)>) -> Self {
        Self {
            codecs,
            extensions,
            templates: RefCell::default(),
        }
    }

    /// Declares a media for a consumer on a transport's `Rtc`.
    pub(super) fn declare(
        &self,
        rtc: &mut Rtc,
        cert: &DtlsCert,
        automatic: Automatic,
        media: (Mid, MediaKind),
    ) {
        let mut templates = self.templates.borrow_mut();
        templates.declare(rtc, cert, &self.extensions, automatic, media);
    }
}

/// Sources of media sections for the consumers of routers with the same
/// extensions.
#[derive(Debug, Default)]
pub struct MediaTemplates {
    /// At most one for each of the eight combinations.
    rtcs: Vec<(Automatic, Box<Rtc>)>,
}

impl MediaTemplates {
    /// Declares a media on a transport's `Rtc`, whose packets carry what was
    /// negotiated. `router`: ids and URIs of its extensions, the same at each call.
    pub fn declare(
        &mut self,
        rtc: &mut Rtc,
        cert: &DtlsCert,
        router: &[(u32, String)],
        automatic: Automatic,
        (mid, kind): (Mid, MediaKind),
    ) {
        if !self.rtcs.iter().any(|(of, _)| *of == automatic) {
            self.rtcs.push((automatic, build(cert, router, automatic)));
        }
        let mut rtcs = self.rtcs.iter_mut();
        let Some((_, template)) = rtcs.find(|(of, _)| *of == automatic) else {
            return;
        };
        let mut from = template.direct_api();
        let mut to = rtc.direct_api();
        std::mem::swap(to.declare_media(mid, kind), from.declare_media(mid, kind));
        from.remove_media(mid);
    }
}

fn build(cert: &DtlsCert, router: &[(u32, String)], automatic: Automatic) -> Box<Rtc> {
    let router = router.iter().map(|(id, uri)| (*id, uri.as_str()));
    let rtc = Rtc::builder()
        .set_rtp_mode(true)
        .set_crypto_provider(Arc::new(crypto::provider().clone()))
        .set_dtls_cert(cert.clone())
        .set_extension_map(extensions::sending_map(router, automatic))
        .build(Instant::now());
    Box::new(rtc)
}
