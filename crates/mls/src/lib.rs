//! What servers and devices must agree on about MLS: suite, leaf certificates, group profiles, and which commit is allowed.
//!
//! No I/O and no private keys: the delivery service is linked with this, and with nothing that opens a message.
//!
//! **Invariant**: a commit that a server's check here lets through is one that every member's check lets through.
