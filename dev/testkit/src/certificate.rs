//! A certificate of a test's own.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use rustls::{ServerConfig, SupportedProtocolVersion, pki_types::PrivateKeyDer};

/// A certificate that is its own authority, in a file as long as this value lives.
#[derive(Debug)]
pub(crate) struct Certificate(PathBuf);

impl Certificate {
    /// For these names, with what a server needs that speaks this version of TLS.
    pub(crate) fn new(
        names: &[&str],
        version: &'static SupportedProtocolVersion,
    ) -> (Self, Arc<ServerConfig>) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("testkit-{}-{number}.pem", std::process::id()));
        std::fs::write(&path, made.cert.pem()).expect("writing a certificate");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let server = ServerConfig::builder_with_protocol_versions(&[version]).with_no_client_auth();
        let server =
            server.with_single_cert(vec![made.cert.der().clone()], key).expect("a certificate and its key");
        (Self(path), Arc::new(server))
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
