//! Webhooks: news of rollouts on their way from the store to receivers that fail, hang, or come back later.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde_json::{Value, json};
use switchback::clock::Clock;
use switchback::config::{self, ReadyMade, Webhook};
use switchback::ids::Digest;
use switchback::notify::{Courier, Terms, Webhooks};
use switchback::release::Change;
use switchback::release::rollout::{Basis, Command, Event, NewRollout, Next, Rollout};
use switchback::store::{DeliveryRow, DeliveryState, Store};
use switchback::telemetry::Metrics;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A clock that stands still until it is turned.
struct Turned(watch::Sender<Timestamp>);

impl Clock for Turned {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    fn wait_until(&self, at: Timestamp) -> BoxFuture<'_, ()> {
        let mut time = self.0.subscribe();
        async move { drop(time.wait_for(|now| *now >= at).await) }.boxed()
    }
}

fn minute(minute: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + minute * 60).unwrap()
}

/// What a receiver does with a request; it takes whatever comes once it has nothing else to do.
enum Does {
    Says(u16, &'static str),
    AsksToWait(u16, &'static str),
    Redirects(String),
    Hangs,
}

struct Seen {
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

struct Receiver {
    url: String,
    seen: mpsc::UnboundedReceiver<Seen>,
    plan: Arc<Mutex<VecDeque<Does>>>,
}

type Desk = (mpsc::UnboundedSender<Seen>, Arc<Mutex<VecDeque<Does>>>);

async fn take(State((sender, plan)): State<Desk>, headers: HeaderMap, body: String) -> Response {
    sender.send(Seen { headers, body }).unwrap();
    let next = plan.lock().unwrap().pop_front();
    match next {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(Does::Says(code, text)) => (StatusCode::from_u16(code).unwrap(), text).into_response(),
        Some(Does::AsksToWait(code, wait)) => {
            (StatusCode::from_u16(code).unwrap(), [("retry-after", wait)]).into_response()
        }
        Some(Does::Redirects(to)) => (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response(),
        Some(Does::Hangs) => std::future::pending().await,
    }
}

impl Receiver {
    async fn start(plan: impl IntoIterator<Item = Does>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let (sender, seen) = mpsc::unbounded_channel();
        let plan = Arc::new(Mutex::new(plan.into_iter().collect()));
        let router = Router::new().fallback(take).with_state((sender, Arc::clone(&plan)));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, seen, plan }
    }

    async fn next(&mut self) -> Seen {
        let next = tokio::time::timeout(Duration::from_secs(20), self.seen.recv()).await;
        next.expect("the receiver was told nothing").unwrap()
    }

    /// Whether nothing comes for so long that a courier who had wanted to send something had done so.
    async fn is_left_alone(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.seen.recv()).await.is_err()
    }
}

/// A courier at work, with its store.
struct Office {
    store: Store,
    clock: Arc<Turned>,
    metrics: Metrics,
    webhooks: Webhooks,
    stop: CancellationToken,
    courier: JoinHandle<()>,
}

fn configured(entries: &str) -> Vec<Webhook> {
    let models = "server: { mode: dev }\nmodels: { m: { versions: { v1: { image: a } } } }\n";
    let text = format!("{models}webhooks: [{entries}]\n");
    config::parse(&text, Path::new("sb.yaml"), &|_| Some("hush".to_owned())).unwrap().webhooks
}

fn all_json(receiver: &Receiver) -> Vec<Webhook> {
    configured(&format!(
        "{{url: '{}', format: json, events: [pending, step, paused, aborted]}}",
        receiver.url
    ))
}

async fn office(folder: &Path, webhooks: &[Webhook], terms: Terms) -> Office {
    let store = Store::open(&folder.join("state.db")).await.unwrap();
    let clock = Arc::new(Turned(watch::Sender::new(minute(0))));
    let metrics = Metrics::new().unwrap();
    let time: Arc<dyn Clock> = Arc::<Turned>::clone(&clock);
    let (courier, webhooks) =
        Courier::subscribe(webhooks, &store, time, metrics.clone(), terms).await.unwrap();
    let stop = CancellationToken::new();
    let courier = tokio::spawn(courier.run(stop.clone()));
    Office { store, clock, metrics, webhooks, stop, courier }
}

impl Office {
    /// A rollout begins: one transition.
    async fn begin(&self) -> Rollout {
        let new = NewRollout {
            id: self.store.next_rollout_id().await.unwrap(),
            model: "desk".parse().unwrap(),
            stable: "v1".parse().unwrap(),
            canary: "v2".parse().unwrap(),
            policy: ReadyMade::CustomerFacing.policy(),
            basis: Basis::Checks,
        };
        let by = Change { actor: "anna".to_owned(), reason: "a test".to_owned() };
        let begun = Rollout::begin(new, &by, self.clock.now()).unwrap();
        self.store.append_transition(&begun.to_store(None)).await.unwrap();
        begun.rollout
    }

    /// Another transition.
    async fn tell(&self, rollout: &Rollout, event: Event) -> Rollout {
        let Next::Moved(next) = rollout.apply(event, self.clock.now()).unwrap() else {
            panic!("no transition")
        };
        self.store.append_transition(&next.to_store(None)).await.unwrap();
        next.rollout
    }

    /// A whole short rollout: three transitions.
    async fn three(&self) {
        let order = |command| {
            let by = Change { actor: "anna".to_owned(), reason: String::new() };
            Event::Operator { command, by }
        };
        let begun = self.begin().await;
        let grown = self.tell(&begun, Event::NoSuite).await;
        self.tell(&grown, order(Command::Abort)).await;
    }

    /// Waits until the newest delivery is as it should be. Time stands still meanwhile.
    async fn until(&self, what: impl Fn(&DeliveryRow) -> bool) -> DeliveryRow {
        let started = Instant::now();
        loop {
            let newest = self.store.deliveries(1).await.unwrap().pop();
            if let Some(row) = newest.as_ref().filter(|row| what(row)) {
                return row.clone();
            }
            assert!(started.elapsed() < Duration::from_secs(20), "it never came to that: {newest:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn turn(&self, by: Duration) {
        self.clock.0.send_modify(|now| *now = now.checked_add(by).unwrap());
    }

    async fn close(self) {
        self.stop.cancel();
        self.courier.await.unwrap();
    }
}

#[tokio::test]
async fn what_a_receiver_does_not_take_is_sent_again_when_it_is_due_and_not_before() {
    let plan = [Does::Says(500, "out of order"), Does::AsksToWait(429, "30")];
    let mut receiver = Receiver::start(plan).await;
    let entry = format!("{{url: '{}', format: json, secret: {{env: KEY}}, events: [pending]}}", receiver.url);
    let folder = tempfile::tempdir().unwrap();
    let office = office(folder.path(), &configured(&entry), Terms::default()).await;
    office.begin().await;
    let first = receiver.next().await;
    let row = office.until(|row| row.attempts == 1).await;
    assert_eq!(row.last_error.as_deref(), Some("status 500: out of order"));
    assert!(minute(0) < row.due_at && row.due_at <= minute(0).checked_add(Duration::from_secs(1)).unwrap());

    office.turn(Duration::from_secs(1));
    receiver.next().await;
    let row = office.until(|row| row.attempts == 2).await;
    assert_eq!(row.due_at, minute(0).checked_add(Duration::from_secs(31)).unwrap());
    office.turn(Duration::from_secs(29));
    assert!(receiver.is_left_alone().await, "it asked for half a minute");

    office.turn(Duration::from_secs(1));
    let last = receiver.next().await;
    office.until(|row| row.state == DeliveryState::Delivered).await;
    assert_eq!(first.body, last.body, "so that a receiver knows it again");
    assert_eq!(
        (&first.headers["x-switchback-delivery"], first.json()["id"].as_i64()),
        (&"1".parse().unwrap(), Some(1))
    );
    assert_eq!(last.headers["x-switchback-event"], "pending");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"hush").unwrap();
    mac.update(last.body.as_bytes());
    let signature = Digest::from_bytes(mac.finalize().into_bytes().into()).hex();
    assert_eq!(last.headers["x-switchback-signature"], format!("sha256={signature}").as_str());
    let metrics = office.metrics.render(&[], &[], &[], Duration::ZERO).unwrap();
    let receiver = office.webhooks.receivers().await.unwrap().remove(0).receiver;
    for (outcome, count) in [("delivered", 1), ("failed", 2)] {
        let line =
            format!("webhook_deliveries_total{{outcome=\"{outcome}\",receiver=\"{receiver}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is missing in:\n{metrics}");
    }
}

#[tokio::test]
async fn all_that_is_known_of_a_transition_is_in_the_json() {
    let mut receiver = Receiver::start([]).await;
    let folder = tempfile::tempdir().unwrap();
    let office = office(folder.path(), &all_json(&receiver), Terms::default()).await;
    office.three().await;
    receiver.next().await;
    let step = receiver.next().await.json();
    let expected = json!({
        "id": 2, "event": "step", "at": "2023-11-14T22:13:20Z", "model": "desk", "rollout": 1, "stable": "v1",
        "canary": "v2", "from": "pending", "to": "step 2", "weights": {"v1": 95, "v2": 5}, "waits_for": "time",
        "actor": "switchback", "reason": step["reason"], "verdict": null, "finding": null,
    });
    assert_eq!(step, expected);
    let aborted = receiver.next().await.json();
    assert_eq!((&aborted["weights"], &aborted["waits_for"]), (&json!({"v1": 100}), &json!("nothing")));
    assert_eq!((&aborted["from"], &aborted["actor"]), (&json!("step 2"), &json!("anna")));
}

#[tokio::test]
async fn what_no_receiver_takes_is_given_up_and_kept_and_the_next_goes_on() {
    let elsewhere = Receiver::start([]).await;
    let plan = [Does::Says(400, "invalid_payload"), Does::Redirects(elsewhere.url.clone())];
    let mut receiver = Receiver::start(plan).await;
    let folder = tempfile::tempdir().unwrap();
    let office = office(folder.path(), &all_json(&receiver), Terms::default()).await;
    office.three().await;
    for _ in 0..3 {
        receiver.next().await;
    }
    office.until(|row| row.state == DeliveryState::Delivered).await;
    let told: Vec<_> = office
        .webhooks
        .deliveries(10)
        .await
        .unwrap()
        .into_iter()
        .map(|row| (row.id, row.state.as_str(), row.last_error.unwrap_or_default()))
        .collect();
    let expected = [
        (3, "delivered", String::new()),
        (2, "dead", "status 307".to_owned()),
        (1, "dead", "status 400: invalid_payload".to_owned()),
    ];
    assert_eq!(told, expected);
    let mut elsewhere = elsewhere;
    assert!(elsewhere.is_left_alone().await, "nobody configured it");
    let status = office.webhooks.receivers().await.unwrap().remove(0);
    assert_eq!((status.counts.pending, status.counts.delivered, status.counts.dead), (0, 1, 2));
    assert_eq!(status.last_failure.unwrap().id, 2);
    let metrics = office.metrics.render(&[], &[], &[], Duration::ZERO).unwrap();
    let line = format!("switchback_webhook_dead_letters_total{{receiver=\"{}\"}} 2", status.receiver);
    assert!(metrics.contains(&line), "{metrics}");
    assert!(!metrics.contains("/token"));
}

#[tokio::test]
async fn a_receiver_that_never_comes_back_is_given_up_after_so_many_attempts() {
    let terms = Terms { attempts: 3, ..Terms::default() };
    let mut receiver = Receiver::start((0..3).map(|_| Does::Says(503, ""))).await;
    let folder = tempfile::tempdir().unwrap();
    let office = office(folder.path(), &all_json(&receiver), terms).await;
    office.begin().await;
    for attempt in 1..3 {
        receiver.next().await;
        office.until(|row| row.attempts == attempt).await;
        office.turn(Duration::from_mins(1));
    }
    let row = office.until(|row| row.state == DeliveryState::Dead).await;
    assert_eq!((row.attempts, row.last_error.as_deref()), (3, Some("status 503")));
}

#[tokio::test]
async fn a_receiver_that_hangs_delays_no_other_and_no_transition_and_has_its_news_in_order_later() {
    let mut slow = Receiver::start([Does::Hangs]).await;
    let mut quick = Receiver::start([]).await;
    let folder = tempfile::tempdir().unwrap();
    let webhooks = [all_json(&slow), all_json(&quick)].concat();
    let terms = Terms { attempt: Duration::from_secs(3), ..Terms::default() };
    let office = office(folder.path(), &webhooks, terms).await;
    office.begin().await;
    slow.next().await;
    let grown = office.tell(&office.store_rollout().await, Event::NoSuite).await;
    office.tell(&grown, Event::CanaryDied { why: "a fault".to_owned() }).await;
    let events = async |receiver: &mut Receiver| {
        let mut events = Vec::new();
        while events.last().is_none_or(|event| event != "aborted") {
            events.push(receiver.next().await.json()["event"].as_str().unwrap().to_owned());
        }
        events
    };
    assert_eq!(events(&mut quick).await, ["pending", "step", "aborted"]);
    assert!(slow.is_left_alone().await, "the first is not settled yet");
    let failed = async {
        loop {
            let status = office.webhooks.receivers().await.unwrap().remove(0);
            let Some(failure) = status.last_failure else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            return failure.last_error.unwrap();
        }
    };
    let failed = tokio::time::timeout(Duration::from_secs(20), failed).await.unwrap();
    assert_eq!(failed, "no answer within 3s");
    office.turn(Duration::from_secs(1));
    assert_eq!(events(&mut slow).await, ["pending", "step", "aborted"]);
}

impl Office {
    async fn store_rollout(&self) -> Rollout {
        Rollout::try_from(self.store.running_rollouts().await.unwrap().remove(0)).unwrap()
    }
}

#[tokio::test]
async fn what_a_stop_cuts_off_is_delivered_after_the_restart_and_what_nobody_wants_any_more_is_given_up() {
    let mut receiver = Receiver::start([Does::Hangs]).await;
    let gone = configured("{url: 'http://127.0.0.1:9/other', events: [pending]}");
    let folder = tempfile::tempdir().unwrap();
    let terms = Terms { last_words: Duration::from_millis(20), ..Terms::default() };
    let first = office(folder.path(), &[all_json(&receiver), gone].concat(), terms).await;
    first.three().await;
    let cut_off = receiver.next().await;
    first.close().await;

    receiver.plan.lock().unwrap().clear();
    let again = office(folder.path(), &all_json(&receiver), terms).await;
    let delivered: Vec<_> = [receiver.next().await, receiver.next().await, receiver.next().await]
        .iter()
        .map(|seen| seen.json()["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(delivered, ["pending", "step", "aborted"]);
    again.until(|row| row.state == DeliveryState::Delivered).await;
    let rows = again.store.deliveries(10).await.unwrap();
    let dead = rows.iter().find(|row| row.state == DeliveryState::Dead).unwrap();
    assert!(dead.last_error.as_deref().unwrap().contains("no longer in the configuration"), "{dead:?}");
    assert_eq!(
        cut_off.json()["id"],
        rows.iter().find(|row| row.receiver != dead.receiver && row.notice.event == "pending").unwrap().id
    );
}

#[tokio::test]
async fn the_outbox_keeps_a_bounded_number_of_what_is_settled_and_all_that_is_pending() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state.db")).await.unwrap();
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", folder.path().join("state.db").display()))
        .await
        .unwrap();
    let notice = json!({
        "event": "held", "at": minute(0), "model": "desk", "rollout": 1, "stable": "v1", "canary": "v2", "from": null,
        "to": "held", "weights": {}, "waits_for": "verdict", "actor": "anna", "reason": "", "verdict": null, "finding": null,
    });
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) \
                INSERT INTO webhook_outbox SELECT i, 'host', 'held', $1, $2, \
                CASE WHEN i <= 100 THEN 'pending' WHEN i % 2 = 0 THEN 'dead' ELSE 'delivered' END, 0, $2, NULL, NULL FROM n";
    sqlx::query(fill).bind(notice.to_string()).bind(minute(0).to_string()).execute(&pool).await.unwrap();
    for attempt in [
        switchback::store::Attempt::Delivered,
        switchback::store::Attempt::Dead { error: "status 400".to_owned() },
    ] {
        let next = store.next_delivery("host").await.unwrap().unwrap();
        store.record_attempt(next.id, &attempt, minute(1)).await.unwrap();
    }
    let counts = store.delivery_counts("host").await.unwrap();
    assert_eq!((counts.pending, counts.delivered, counts.dead), (98, 1000, 1000));
    assert_eq!(store.deliveries(1).await.unwrap()[0].id, 2500);
}
