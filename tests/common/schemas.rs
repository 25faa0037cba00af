//! JSON schemas at random, each of which something validates against.

use serde_json::{Map, Value, json};

use super::dice::Dice;

/// Names that are hard to get right: keywords, quotes, other alphabets, empty.
const NAMES: [&str; 12] = [
    "id",
    "name",
    "not",
    "$ref",
    "a \"quoted\" one",
    "größe",
    "日付",
    "a/b",
    "back\\slash",
    "",
    "enabled",
    "tags",
];

const TEXTS: [&str; 8] = ["red", "green", "", "a \"b\"", "line\nbreak", "naïve", "\u{1f600}", "x/y\\z"];

const PATTERNS: [&str; 6] = [
    "^[a-z]{2,5}$",
    "^\\d{3}-\\d{4}$",
    "^(yes|no|maybe)$",
    "^[A-F0-9]{4,8}$",
    "b+c?",
    "^\\w+@\\w+\\.(com|org)$",
];

const FORMATS: [&str; 3] = ["uuid", "ipv4", "date"];

/// The schema of a seed.
pub fn schema(seed: u64) -> Value {
    let mut maker = Maker { dice: Dice::of(seed) };
    // most servers' clients ask for objects
    let mut root = if maker.dice.one_in(4) { maker.any(2) } else { maker.object(2) };
    root["$defs"] = json!({
        "leaf": maker.scalar(),
        "list": {"type": "object", "additionalProperties": false, "required": ["value"], "properties": {
            "value": maker.scalar(),
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/list"}]},
        }},
    });
    root
}

struct Maker {
    dice: Dice,
}

impl Maker {
    fn any(&mut self, depth: u32) -> Value {
        if depth == 0 {
            return self.scalar();
        }
        match self.dice.below(10) {
            0..3 => self.object(depth - 1),
            3..5 => self.array(depth - 1),
            5 => json!({"anyOf": [self.any(depth - 1), self.scalar(), self.any(depth - 1)]}),
            6 => json!({"$ref": self.dice.pick(&["#/$defs/leaf", "#/$defs/list"])}),
            7 => json!({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 3 + self.dice.below(40)}]}),
            _ => self.scalar(),
        }
    }

    fn scalar(&mut self) -> Value {
        match self.dice.below(12) {
            0..3 => self.string(),
            3..5 => self.integer(),
            5..7 => self.number(),
            7 => json!({"type": "boolean"}),
            8 => json!({"type": "null"}),
            9 => {
                json!({"enum": [self.dice.pick(&TEXTS), self.dice.below(100), null, true, [1, self.dice.pick(&TEXTS)], {"k": 0.5}]})
            }
            10 => json!({"const": self.dice.pick(&TEXTS)}),
            _ => json!({"type": ["string", "null", "integer"], "maxLength": 6, "minimum": 0, "maximum": 9}),
        }
    }

    fn string(&mut self) -> Value {
        match self.dice.below(4) {
            0 => json!({"type": "string", "pattern": self.dice.pick(&PATTERNS), "maxLength": 20}),
            1 => json!({"type": "string", "format": self.dice.pick(&FORMATS)}),
            _ => {
                let least = self.dice.below(4);
                json!({"type": "string", "minLength": least, "maxLength": least + self.dice.below(12)})
            }
        }
    }

    fn integer(&mut self) -> Value {
        let least = i64::from(self.dice.below(2000)) - 1000;
        match self.dice.below(4) {
            0 => json!({"type": "integer"}),
            1 => {
                json!({"type": "integer", "exclusiveMinimum": least, "maximum": least + 1 + i64::from(self.dice.below(300))})
            }
            2 => {
                json!({"type": "integer", "minimum": 0, "maximum": 1000, "multipleOf": self.dice.pick(&[2, 5, 7])})
            }
            _ => {
                json!({"type": "integer", "minimum": least, "maximum": least + i64::from(self.dice.below(300))})
            }
        }
    }

    fn number(&mut self) -> Value {
        let least = f64::from(self.dice.below(400)) / 4.0 - 50.0;
        match self.dice.below(3) {
            0 => json!({"type": "number", "minimum": least}),
            1 => json!({"type": "number", "exclusiveMinimum": least, "exclusiveMaximum": least + 1.5}),
            _ => {
                json!({"type": "number", "minimum": least, "maximum": least + f64::from(self.dice.below(40)) / 4.0})
            }
        }
    }

    fn array(&mut self, depth: u32) -> Value {
        let least = self.dice.below(3);
        if self.dice.one_in(4) {
            return json!({"type": "array", "prefixItems": [self.any(depth), self.scalar()], "items": false, "minItems": 2});
        }
        json!({"type": "array", "items": self.any(depth), "minItems": least, "maxItems": least + self.dice.below(3)})
    }

    fn object(&mut self, depth: u32) -> Value {
        let mut properties = Map::new();
        for _ in 0..=self.dice.below(4) {
            let name = self.dice.pick(&NAMES);
            properties.insert(name.to_owned(), self.any(depth));
        }
        let required: Vec<String> = properties.keys().filter(|_| self.dice.below(3) > 0).cloned().collect();
        let mut object = json!({"type": "object", "properties": properties, "required": required});
        match self.dice.below(6) {
            0 => {}
            1 => object["additionalProperties"] = self.scalar(),
            _ => object["additionalProperties"] = json!(false),
        }
        object
    }
}
