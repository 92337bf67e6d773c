//! A certificate of a test's own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use native_tls::{Identity, TlsAcceptor};

/// A certificate that is its own authority, in a file as long as this value lives.
#[derive(Debug)]
pub(crate) struct Certificate(PathBuf);

impl Certificate {
    /// For these names, with what a server needs.
    pub(crate) fn new(names: &[&str]) -> (Self, TlsAcceptor) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("testkit-{}-{number}.pem", std::process::id()));
        std::fs::write(&path, &certificate).expect("writing a certificate");
        let identity = Identity::from_pkcs8(certificate.as_bytes(), key.as_bytes()).expect("an identity");
        (Self(path), TlsAcceptor::new(identity).expect("TLS"))
    }

    /// The PEM file for those who shall trust it.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
