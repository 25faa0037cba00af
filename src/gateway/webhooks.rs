//! Webhooks as operators ask for them.

use super::{AdminError, Gateway};
use crate::notify::ReceiverStatus;
use crate::release::ReleaseError;
use crate::store::DeliveryRow;

impl Gateway {
    /// Who is told what rollouts do, and how that goes.
    pub async fn webhooks(&self) -> Result<Vec<ReceiverStatus>, AdminError> {
        Ok(self.inner().webhooks.receivers().await.map_err(ReleaseError::from)?)
    }

    /// The newest deliveries to webhooks, the newest first.
    pub async fn webhook_deliveries(&self, limit: u32) -> Result<Vec<DeliveryRow>, AdminError> {
        Ok(self.inner().webhooks.deliveries(limit).await.map_err(ReleaseError::from)?)
    }
}
