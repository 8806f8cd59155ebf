//! The current role of this server: the owner, which folds and commits, or a standby.

use crate::handle::OwnerHandle;

/// The current role of this server.
#[derive(Clone)]
pub enum ServerRole {
    /// This server folds and commits.
    Owner(OwnerHandle),
    /// Another server is the owner, or there is none at the moment.
    Standby {
        /// Address of the owner, such as `http://10.0.0.2:7420`; `None` while there is no owner.
        owner: Option<String>,
    },
}

impl ServerRole {
    /// The handle of the owner. Returns `None` if this server is a standby.
    pub fn owner(&self) -> Option<&OwnerHandle> {
        match self {
            Self::Owner(handle) => Some(handle),
            Self::Standby { .. } => None,
        }
    }
}
