//! Places where a test can make the agent die: `ISY_AGENT_CRASH_AT=<name>` aborts the process there, as `kill -9`
//! would.
//!
//! Names: `before-<step>` and `after-<step>` for each step of an operation (plan::steps), `mid-database`, and what tenant::data calls between the
//! steps of putting volumes back (`put-back-…`) and of moving data (`move-…`), and tenant::aside (`aside-…`, `return-…`). A build
//! without the feature `failpoints` contains none of this. Not here: who dies (tenant).

/// Dies here if told to.
#[cfg(feature = "failpoints")]
pub fn reached(place: &str) {
    if std::env::var("ISY_AGENT_CRASH_AT").is_ok_and(|at| at == place) {
        std::process::abort();
    }
}

/// Does nothing in this build.
#[cfg(not(feature = "failpoints"))]
pub fn reached(_place: &str) {}
