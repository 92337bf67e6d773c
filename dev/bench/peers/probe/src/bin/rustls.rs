//! The probe with rustls on ring.

use lambda_http::Error;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_postgres_rustls::MakeRustlsConnect;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(probe::var("PGSSLROOTCERT"))? {
        roots.add(certificate?)?;
    }
    let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    probe::serve(MakeRustlsConnect::new(tls)).await
}
