//! Customers who ask over and over, each question with its own number, until something is so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::Value;

/// How customers ask.
pub struct Customers<Q> {
    pub client: Client,
    /// Where they ask.
    pub url: String,
    pub at_once: usize,
    /// How long each rests after an answer.
    pub think: Duration,
    /// The longest that they go on.
    pub patience: Duration,
    /// The body of question `i`.
    pub question: Q,
}

impl<Q: Fn(u64) -> Value + Send + Sync + 'static> Customers<Q> {
    /// They ask until `so` gives something, and every one gets an answer. What it gave, if it did in time, and how many
    /// asked.
    pub async fn ask_until(self, so: impl AsyncFn() -> Option<Value>) -> (Option<Value>, u64) {
        let Self { client, url, at_once, think, patience, question } = self;
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let question = Arc::new(question);
        let customer = || {
            let (stop, asked, question) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&question));
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let body = question(asked.fetch_add(1, Ordering::Relaxed));
                    let response = client.post(&url).json(&body).send().await.unwrap();
                    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
                    response.bytes().await.unwrap();
                    tokio::time::sleep(think).await;
                }
            })
        };
        let customers: Vec<_> = (0..at_once).map(|_| customer()).collect();
        let started = Instant::now();
        let value = loop {
            let value = so().await;
            if value.is_some() || started.elapsed() >= patience {
                break value;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        stop.store(true, Ordering::Relaxed);
        for customer in customers {
            customer.await.unwrap();
        }
        (value, asked.load(Ordering::Relaxed))
    }
}
