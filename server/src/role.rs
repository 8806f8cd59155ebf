//! What this server is at the moment: the owner, who folds and commits, or one that stands by.

use crate::handle::OwnerHandle;

/// What this server is at the moment.
#[derive(Clone)]
pub enum Role {
    /// It folds and commits.
    Owner(OwnerHandle),
    /// Another server does, or nobody does right now.
    Standby {
        /// The owner's address, as in `http://10.0.0.2:7420`; nothing while there is no owner.
        owner: Option<String>,
    },
}

impl Role {
    /// The owner, if it is this server.
    pub fn owner(&self) -> Option<&OwnerHandle> {
        match self {
            Self::Owner(handle) => Some(handle),
            Self::Standby { .. } => None,
        }
    }
}
