//! The orientation of producers' pictures, told when it is known and when it has
//! changed, at most once per review.

use proto::event::Event;

use super::{Engine, RouterKey};

impl Engine {
    /// Tells the orientations of a router's producers that are others than those
    /// that were told.
    pub(super) fn review_orientations(&mut self, router: RouterKey) {
        let Some(room) = self.routers.get_mut(router) else {
            return;
        };
        let mut changed = Vec::new();
        for (key, producer) in &mut room.producers {
            let transport = self.transports.get(producer.transport);
            let found = transport.and_then(|t| t.inner.receiving().orientation(key));
            if let Some(orientation) = found
                && producer.told_orientation.replace(orientation) != found
            {
                changed.push(proto::VideoOrientationChanged {
                    producer_id: producer.id.clone(),
                    camera: orientation.camera,
                    flip: orientation.flip,
                    rotation: orientation.rotation.into(),
                });
            }
        }
        for told in changed {
            self.event(router, Event::VideoOrientation(told));
        }
    }
}
