//! A certificate authority that lasts for one run of the tests, and a server certificate made by it.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::{Context, Result};

/// Writes `ca.pem`, `server.pem` and `server.key` for `localhost` and 127.0.0.1.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let doing = "make certificates";
    let authority_key = KeyPair::generate().context(doing)?;
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "Authority of one test run");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = authority.self_signed(&authority_key).context(doing)?;
    let issuer = Issuer::new(authority, authority_key);

    let key = KeyPair::generate().context(doing)?;
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut server = CertificateParams::new(names).context(doing)?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = server.signed_by(&key, &issuer).context(doing)?;

    fs::write(folder.join("ca.pem"), ca.pem()).context(doing)?;
    fs::write(folder.join("server.pem"), certificate.pem()).context(doing)?;
    let secret = folder.join("server.key");
    drop(fs::remove_file(&secret));
    // PostgreSQL refuses a key that others can read; one of root's is fine when root started it.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(secret).context(doing)?;
    file.write_all(key.serialize_pem().as_bytes()).context(doing)
}
