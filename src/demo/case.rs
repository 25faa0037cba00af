//! One customer, one message, and the answer that a good desk gives.

use serde::Serialize;

use super::dice::Dice;
use super::wording::{
    ANGRY, CLOSERS, NAMED_CLOSERS, NAMED_OPENERS, NAMES, OPENERS, ORDER_PHRASES, PRODUCTS, RELAXED, TOPICS,
    URGENT,
};

/// The system message that the demo was trained with.
pub const SYSTEM_PROMPT: &str = "Answer customers with one JSON object.";

/// How soon a person should look at the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// The customer says that it can wait.
    Low,
    /// Neither.
    Normal,
    /// The customer is in a hurry, or something is broken.
    High,
}

/// The JSON object that answers a message; serialised in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// What the customer wants.
    pub intent: &'static str,
    /// The product's name without typos.
    pub product: &'static str,
    /// The order as `A-12345`, where the message names one.
    pub order_id: Option<String>,
    /// How soon to act.
    pub priority: Priority,
    /// One sentence to the customer.
    pub reply: String,
}

/// A message and the answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// What the customer wrote, typos and all.
    pub message: String,
    /// The answer of a good desk.
    pub expected: Expected,
    /// Whether the customer is angry: nothing that the answer depends on, but v3 was trained to shy from it.
    pub angry: bool,
}

impl Case {
    /// The answer as the demo is trained to write it: compact JSON.
    ///
    /// # Panics
    /// Never: the fields are strings.
    pub fn answer(&self) -> String {
        serde_json::to_string(&self.expected).expect("strings always serialise")
    }
}

/// `n` different cases of which no training stream, whatever its seed, holds the message.
pub fn held_out(seed: u64, n: usize) -> Vec<Case> {
    let mut seen = std::collections::HashSet::new();
    cases(seed, Split::HeldOut).filter(|case| seen.insert(case.message.clone())).take(n).collect()
}

/// An endless stream of cases to train on.
pub fn training(seed: u64) -> impl Iterator<Item = Case> {
    cases(seed, Split::Training)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Split {
    Training,
    HeldOut,
}

/// A message belongs to one side by its own hash, so no seed can bring it to the other.
fn split_of(message: &str) -> Split {
    let hash = message
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    if (hash >> 32) % 16 == 0 { Split::HeldOut } else { Split::Training }
}

fn cases(seed: u64, split: Split) -> impl Iterator<Item = Case> {
    let mut dice = Dice::new(seed);
    std::iter::repeat_with(move || generate(&mut dice)).filter(move |case| split_of(&case.message) == split)
}

enum Urgency {
    Urgent,
    Relaxed,
    Unsaid,
}

fn generate(dice: &mut Dice) -> Case {
    let topic = &TOPICS[dice.below(TOPICS.len())];
    let product = dice.pick(PRODUCTS);
    let name = dice.percent(60).then(|| dice.pick(NAMES));
    let order = dice
        .percent(70)
        .then(|| format!("{}-{:05}", dice.pick(&["A", "B", "K", "R", "X"]), dice.below(100_000)));
    let urgency = match dice.below(10) {
        0..3 => Urgency::Urgent,
        3..5 => Urgency::Relaxed,
        _ => Urgency::Unsaid,
    };
    let angry = dice.percent(12);

    let named_order = order.as_ref().map_or(String::new(), |o| {
        let o = if dice.percent(25) { format!("#{o}") } else { o.clone() };
        dice.pick(ORDER_PHRASES).replace("{o}", &o)
    });
    let says = dice.pick(topic.says).replace("{p}", product).replace("{o}", &named_order);
    let body = sentence(dice, &says);
    let body = with_typos(dice, &body);
    let mut after = String::new();
    match urgency {
        Urgency::Urgent => after.push_str(dice.pick(URGENT)),
        Urgency::Relaxed => after.push_str(dice.pick(RELAXED)),
        Urgency::Unsaid => {}
    }
    if angry {
        let angry = dice.pick(ANGRY);
        if dice.percent(50) { after.push_str(angry) } else { after.insert_str(0, angry) }
    }
    let (opener, closer) = match name {
        Some(n) if dice.percent(50) => {
            (dice.pick(NAMED_OPENERS).replace("{n}", n), dice.pick(CLOSERS).to_owned())
        }
        Some(n) => (dice.pick(OPENERS).to_owned(), dice.pick(NAMED_CLOSERS).replace("{n}", n)),
        None => (dice.pick(OPENERS).to_owned(), dice.pick(CLOSERS).to_owned()),
    };
    let message = format!("{opener}{body}{after}{closer}");
    let greeting = name.map_or(String::new(), |n| format!("{n}, "));
    let priority = match (urgency, topic.intent) {
        (Urgency::Urgent, _) | (Urgency::Unsaid, "damaged_item") => Priority::High,
        (Urgency::Relaxed, "damaged_item") | (Urgency::Unsaid, _) => Priority::Normal,
        (Urgency::Relaxed, _) => Priority::Low,
    };
    let reply = capitalised(&topic.reply.replace("{n}", &greeting).replace("{p}", product));
    Case {
        message,
        expected: Expected { intent: topic.intent, product, order_id: order, priority, reply },
        angry,
    }
}

/// Ends a sentence as customers do, and starts it with or without a capital.
fn sentence(dice: &mut Dice, says: &str) -> String {
    let end = dice.pick(&[".", ".", "!", "?", ""]);
    let end = if end.is_empty() && dice.percent(80) { "." } else { end };
    if dice.percent(60) { format!("{}{end}", capitalised(says)) } else { format!("{says}{end}") }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// In a third of the messages one or two longer words are mistyped: letters swapped, lost or doubled.
fn with_typos(dice: &mut Dice, text: &str) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    if dice.percent(35) {
        for _ in 0..=dice.below(2) {
            let at = dice.below(words.len());
            let word = &mut words[at];
            if word.len() < 5 || !word.bytes().all(|b| b.is_ascii_lowercase()) {
                continue;
            }
            let i = 1 + dice.below(word.len() - 2);
            let mut letters: Vec<char> = word.chars().collect();
            match dice.below(3) {
                0 => letters.swap(i, i + 1),
                1 => drop(letters.remove(i)),
                _ => letters.insert(i, letters[i]),
            }
            *word = letters.into_iter().collect();
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_held_out_message_is_ever_trained_on() {
        let held_out: HashSet<_> = held_out(1, 500).into_iter().map(|c| c.message).collect();
        assert_eq!(held_out.len(), 500, "held-out cases repeat themselves");
        for seed in [1, 7, 42] {
            assert!(training(seed).take(10_000).all(|c| !held_out.contains(&c.message)));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_customers() {
        assert_eq!(held_out(3, 20), held_out(3, 20));
        assert_ne!(held_out(3, 20), held_out(4, 20));
    }

    #[test]
    fn wording_varies() {
        let messages: HashSet<_> = training(1).take(20_000).map(|c| c.message).collect();
        assert!(messages.len() > 19_000, "{} different of 20,000", messages.len());
    }

    #[test]
    fn an_answer_names_the_order_of_its_message() {
        for case in held_out(5, 200) {
            match &case.expected.order_id {
                Some(order) => assert!(case.message.contains(order.as_str()), "{case:?}"),
                None => assert!(!case.message.contains(|c: char| c.is_ascii_digit()), "{case:?}"),
            }
        }
    }
}
