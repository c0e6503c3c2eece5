//! A room's place in the registry, which it must not keep when its task is
//! gone: given back even by a panic, and with it the router at the worker.

use tracing::{debug, error};

use super::ids::RoomId;
use super::registry::Rooms;
use crate::workers::WorkerClient;

/// Held by a room's task for as long as the room can be found.
pub(super) struct Tenure {
    registry: Rooms,
    room: RoomId,
    router_id: String,
    client: WorkerClient,
    ended: bool,
}

impl Tenure {
    pub fn new(registry: Rooms, room: RoomId, router_id: String, client: WorkerClient) -> Self {
        Self {
            registry,
            room,
            router_id,
            client,
            ended: false,
        }
    }

    /// The room leaves the registry in order, and sees to its router itself.
    pub fn end(mut self) {
        self.ended = true;
        self.registry.remove(&self.router_id);
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        error!(room = %self.room, "room broke off");
        self.registry.lose(&self.router_id);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (client, router_id) = (self.client.clone(), std::mem::take(&mut self.router_id));
        runtime.spawn(async move {
            let request = proto::CloseRouterRequest { router_id };
            if let Err(error) = client.close_router(request).await {
                debug!(%error, "cannot close the router of a room that broke off");
            }
        });
    }
}
