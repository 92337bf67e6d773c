//! OpenSSL 4.0 for a build script that asks for OpenSSL 3.6: the same crate in a later version, whose interface has not
//! changed.

pub use upstream::*;
