//! As production is: frozen between invocations, over TLS, with DNS that flaps, reads that lag writes, and more than one
//! run at once.

mod expired; // requests that AWS refuses as expired
mod frozen; // what lives across a freeze
mod lagging; // DNS that flaps, reads that lag writes, and runs beside one another
mod lists; // of refused addresses
mod neighbours; // what fails in one place and must not spoil another
mod servers; // name servers that are dead or slow
