//! What customers write about: the words that `case` puts together.

pub(super) struct Topic {
    pub(super) intent: &'static str,
    /// How a customer says it; `{p}` is the product, `{o}` the order as he names it.
    pub(super) says: &'static [&'static str],
    /// What the desk replies; `{n}` is a greeting, `{p}` the product, `{o}` the order.
    pub(super) reply: &'static str,
}

pub(super) const TOPICS: &[Topic] = &[
    Topic {
        intent: "refund",
        says: &[
            "I want my money back for the {p}{o}",
            "please refund the {p}{o}",
            "how do I get a refund for the {p}{o}",
            "I returned the {p}{o} and still wait for the money",
            "the {p}{o} is not for me, I would like a refund",
            "can you pay me back for the {p}{o}",
        ],
        reply: "{n}we have started the refund for your {p}.",
    },
    Topic {
        intent: "order_status",
        says: &[
            "where is my {p}{o}",
            "when will the {p}{o} arrive",
            "I am still waiting for the {p}{o}",
            "has the {p}{o} been shipped yet",
            "the tracking for my {p}{o} has not moved for days",
            "what is the status of the {p}{o}",
        ],
        reply: "{n}your {p} is on its way.",
    },
    Topic {
        intent: "cancel_order",
        says: &[
            "please cancel the {p}{o}",
            "I want to cancel my order of the {p}{o}",
            "I ordered the {p}{o} by mistake, can you stop it",
            "I do not need the {p}{o} any more, cancel it",
            "is it too late to cancel the {p}{o}",
        ],
        reply: "{n}we have cancelled the {p}.",
    },
    Topic {
        intent: "change_address",
        says: &[
            "I moved, please send the {p}{o} to my new address",
            "can you change the delivery address of the {p}{o}",
            "the {p}{o} goes to my old address, please correct it",
            "please deliver the {p}{o} to my office instead",
            "I typed a wrong street for the {p}{o}",
        ],
        reply: "{n}please send us the new address for the {p}.",
    },
    Topic {
        intent: "damaged_item",
        says: &[
            "the {p}{o} arrived broken",
            "my {p}{o} came with a big crack",
            "the {p}{o} does not turn on, it is damaged",
            "the box was crushed and the {p}{o} is in pieces",
            "there is a dent in the {p}{o}",
            "the {p}{o} stopped working on the first day",
        ],
        reply: "{n}we are sorry, a new {p} is on its way.",
    },
    Topic {
        intent: "wrong_item",
        says: &[
            "I got something else instead of the {p}{o}",
            "you sent me the wrong colour of the {p}{o}",
            "this is not the {p}{o} that I ordered",
            "I ordered the {p}{o} but the parcel had another thing in it",
            "the {p}{o} has the wrong size",
        ],
        reply: "{n}we will swap it for the right {p}.",
    },
    Topic {
        intent: "login_problem",
        says: &[
            "I cannot log in to see the {p}{o}",
            "my password does not work, I only want to check the {p}{o}",
            "I am locked out of my account and need the {p}{o}",
            "the reset mail never comes, so I cannot open the {p}{o}",
            "your site says unknown user when I look for the {p}{o}",
        ],
        reply: "{n}we have sent you a link to log in.",
    },
    Topic {
        intent: "invoice",
        says: &[
            "I need an invoice for the {p}{o}",
            "can you send the receipt for the {p}{o}",
            "the bill for the {p}{o} has the wrong company name",
            "my accountant asks for the invoice of the {p}{o}",
            "I was charged twice for the {p}{o}",
        ],
        reply: "{n}we have mailed the invoice for the {p}.",
    },
    Topic {
        intent: "product_question",
        says: &[
            "does the {p}{o} come with a cable",
            "how do I clean the {p}{o}",
            "is there a manual for the {p}{o}",
            "how long is the warranty of the {p}{o}",
            "can I use the {p}{o} outdoors",
            "which spare parts fit the {p}{o}",
        ],
        reply: "{n}you will find the manual of the {p} in your account.",
    },
];

pub(super) const PRODUCTS: &[&str] = &[
    "espresso machine",
    "desk lamp",
    "office chair",
    "running shoes",
    "rain jacket",
    "bluetooth speaker",
    "phone case",
    "coffee grinder",
    "air fryer",
    "yoga mat",
    "water bottle",
    "hair dryer",
    "robot vacuum",
    "gaming mouse",
    "keyboard",
    "headphones",
    "backpack",
    "tent",
    "toaster",
    "electric kettle",
    "bike helmet",
    "alarm clock",
    "monitor",
    "blender",
];

pub(super) const NAMES: &[&str] = &[
    "Anna", "Ben", "Carla", "David", "Elena", "Felix", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam",
    "Maria", "Nils", "Olga", "Paul", "Rosa", "Sam", "Tara", "Umar", "Vera", "Will", "Yara", "Zoe", "Amir",
    "Bea", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivan", "Julia", "Kofi", "Lena", "Mateo",
    "Nora", "Oscar", "Priya",
];

/// `{n}` is the customer's name.
pub(super) const OPENERS: &[&str] =
    &["", "", "Hi, ", "Hello, ", "Good morning, ", "Hey there, ", "Dear team, ", "Hello support, "];
pub(super) const NAMED_OPENERS: &[&str] = &[
    "Hi, I am {n}. ",
    "This is {n}. ",
    "Hello, my name is {n}. ",
    "{n} here, ",
    "Good evening, {n} speaking. ",
];
pub(super) const NAMED_CLOSERS: &[&str] =
    &[" Regards, {n}", " Thanks, {n}", " Best, {n}", " Yours, {n}", " - {n}"];
pub(super) const CLOSERS: &[&str] = &["", "", "", " Thanks!", " Thank you.", " Cheers", " Please help."];

pub(super) const URGENT: &[&str] = &[
    " This is urgent!",
    " I need an answer today.",
    " As soon as possible please.",
    " It cannot wait.",
    " This is the third time that I write!",
];
pub(super) const RELAXED: &[&str] =
    &[" No rush.", " Whenever you have time.", " It is not urgent.", " Take your time."];
pub(super) const ANGRY: &[&str] =
    &[" I am really annoyed.", " This is ridiculous.", " What a terrible service.", " I am fed up with you."];

pub(super) const ORDER_PHRASES: &[&str] =
    &[" (order {o})", ", order {o}", " from order {o}", ", number {o}", " of order {o}", ", my order is {o}"];
