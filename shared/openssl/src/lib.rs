//! OpenSSL 4.0 for a build script that requires OpenSSL 3.6: a later version of the same crate, with an unchanged
//! interface.

pub use upstream::*;
