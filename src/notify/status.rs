//! Webhooks as operators see them.

use std::sync::Arc;

use crate::config::{Phase, Webhook, WebhookFormat};
use crate::store::{DeliveryCounts, DeliveryRow, Store, StoreError};

/// The configured receivers, and what became of the deliveries to them.
#[derive(Clone)]
pub struct Webhooks {
    receivers: Arc<[Receiver]>,
    store: Store,
}

struct Receiver {
    name: String,
    format: WebhookFormat,
    events: Vec<Phase>,
    signed: bool,
}

/// One receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverStatus {
    /// Its host, and digits that tell addresses of one host apart.
    pub receiver: String,
    /// In which words it is told.
    pub format: WebhookFormat,
    /// What it is told.
    pub events: Vec<Phase>,
    /// Whether bodies are signed.
    pub signed: bool,
    /// How many deliveries it has in each state.
    pub counts: DeliveryCounts,
    /// The delivery that waits to be made next.
    pub next: Option<DeliveryRow>,
    /// The newest delivery of which an attempt failed.
    pub last_failure: Option<DeliveryRow>,
}

impl Webhooks {
    pub(super) fn new(webhooks: &[Webhook], store: Store) -> Self {
        let receiver = |webhook: &Webhook| Receiver {
            name: webhook.url.receiver(),
            format: webhook.format,
            events: webhook.events.iter().copied().collect(),
            signed: webhook.secret.is_some(),
        };
        Self { receivers: webhooks.iter().map(receiver).collect(), store }
    }

    /// Each receiver, in the order of the configuration.
    pub async fn receivers(&self) -> Result<Vec<ReceiverStatus>, StoreError> {
        let mut all = Vec::with_capacity(self.receivers.len());
        for receiver in &*self.receivers {
            all.push(ReceiverStatus {
                receiver: receiver.name.clone(),
                format: receiver.format,
                events: receiver.events.clone(),
                signed: receiver.signed,
                counts: self.store.delivery_counts(&receiver.name).await?,
                next: self.store.next_delivery(&receiver.name).await?,
                last_failure: self.store.last_failure(&receiver.name).await?,
            });
        }
        Ok(all)
    }

    /// The newest `limit` deliveries to anybody, the newest first.
    pub async fn deliveries(&self, limit: u32) -> Result<Vec<DeliveryRow>, StoreError> {
        self.store.deliveries(limit).await
    }
}
