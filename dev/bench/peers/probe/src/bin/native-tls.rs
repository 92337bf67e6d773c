//! The probe with native-tls on a vendored OpenSSL, as the functions have it.

use std::fs;

use lambda_http::Error;
use native_tls::{Certificate, TlsConnector};
use postgres_native_tls::MakeTlsConnector;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut tls = TlsConnector::builder();
    tls.disable_built_in_roots(true);
    tls.add_root_certificate(Certificate::from_pem(&fs::read(probe::var("PGSSLROOTCERT"))?)?);
    probe::serve(MakeTlsConnector::new(tls.build()?)).await
}
