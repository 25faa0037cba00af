//! `language`: the answer is in a language that it should be in.

use whatlang::Lang;

use super::checks::{Check, Finding};
use super::compile::Fault;
use super::response::Subject;
use super::verdict::{Judgement, shown};

/// Fewer letters tell too little.
const LEAST_LETTERS: usize = 24;
/// And more than these tell no more; the recogniser's time grows with them.
const MOST_CHARS: usize = 4000;

/// ISO 639-1 codes of the languages that can be told apart.
const CODES: &[(&str, Lang)] = &[
    ("af", Lang::Afr),
    ("ak", Lang::Aka),
    ("am", Lang::Amh),
    ("ar", Lang::Ara),
    ("az", Lang::Aze),
    ("be", Lang::Bel),
    ("bg", Lang::Bul),
    ("bn", Lang::Ben),
    ("ca", Lang::Cat),
    ("cs", Lang::Ces),
    ("cy", Lang::Cym),
    ("da", Lang::Dan),
    ("de", Lang::Deu),
    ("el", Lang::Ell),
    ("en", Lang::Eng),
    ("eo", Lang::Epo),
    ("es", Lang::Spa),
    ("et", Lang::Est),
    ("fa", Lang::Pes),
    ("fi", Lang::Fin),
    ("fr", Lang::Fra),
    ("gu", Lang::Guj),
    ("he", Lang::Heb),
    ("hi", Lang::Hin),
    ("hr", Lang::Hrv),
    ("hu", Lang::Hun),
    ("hy", Lang::Hye),
    ("id", Lang::Ind),
    ("it", Lang::Ita),
    ("ja", Lang::Jpn),
    ("jv", Lang::Jav),
    ("ka", Lang::Kat),
    ("km", Lang::Khm),
    ("kn", Lang::Kan),
    ("ko", Lang::Kor),
    ("la", Lang::Lat),
    ("lt", Lang::Lit),
    ("lv", Lang::Lav),
    ("mk", Lang::Mkd),
    ("ml", Lang::Mal),
    ("mr", Lang::Mar),
    ("my", Lang::Mya),
    ("nb", Lang::Nob),
    ("ne", Lang::Nep),
    ("nl", Lang::Nld),
    ("no", Lang::Nob),
    ("or", Lang::Ori),
    ("pa", Lang::Pan),
    ("pl", Lang::Pol),
    ("pt", Lang::Por),
    ("ro", Lang::Ron),
    ("ru", Lang::Rus),
    ("si", Lang::Sin),
    ("sk", Lang::Slk),
    ("sl", Lang::Slv),
    ("sn", Lang::Sna),
    ("sr", Lang::Srp),
    ("sv", Lang::Swe),
    ("ta", Lang::Tam),
    ("te", Lang::Tel),
    ("th", Lang::Tha),
    ("tk", Lang::Tuk),
    ("tl", Lang::Tgl),
    ("tr", Lang::Tur),
    ("uk", Lang::Ukr),
    ("ur", Lang::Urd),
    ("uz", Lang::Uzb),
    ("vi", Lang::Vie),
    ("yi", Lang::Yid),
    ("zh", Lang::Cmn),
    ("zu", Lang::Zul),
];

/// The answer's words are in one of these languages, as far as that can be told.
pub(super) struct Language {
    codes: Vec<String>,
    languages: Vec<Lang>,
}

impl Language {
    pub(super) fn new(codes: &[String]) -> Result<Self, Fault> {
        let languages = codes.iter().map(|code| language(code)).collect::<Result<_, _>>()?;
        Ok(Self { codes: codes.to_vec(), languages })
    }
}

fn language(code: &str) -> Result<Lang, Fault> {
    let found = CODES.iter().find(|(known, _)| *known == code).map(|(_, language)| *language);
    found.ok_or_else(|| Fault {
        field: "value",
        found: format!("{code:?} is no language that can be recognised"),
        fix: format!("known: {}", CODES.iter().map(|(code, _)| *code).collect::<Vec<_>>().join(", ")),
    })
}

impl Check for Language {
    fn judge(&self, subject: &Subject<'_>) -> Finding {
        let text = words(subject);
        let letters = text.chars().filter(|c| c.is_alphabetic()).count();
        if letters < LEAST_LETTERS {
            return Ok(Judgement::pass(format!("too short to tell: {letters} letters")));
        }
        let told = whatlang::detect(&text).filter(whatlang::Info::is_reliable);
        let Some(lang) = told.map(|info| info.lang()) else {
            return Ok(Judgement::pass("the language cannot be told"));
        };
        let found = lang.eng_name();
        if self.languages.contains(&lang) {
            return Ok(Judgement::pass(found));
        }
        Ok(Judgement::fail(format!("{found}, not {}: {}", self.codes.join(" or "), shown(&text))))
    }
}

/// What is in a language: of JSON the strings that are no identifiers.
fn words(subject: &Subject<'_>) -> String {
    let prose = subject.prose();
    let is_words = |text: &&str| !text.is_ascii() || text.contains(char::is_whitespace);
    let words: Vec<&str> = if prose.len() > 1 { prose.into_iter().filter(is_words).collect() } else { prose };
    words.join("\n").chars().take(MOST_CHARS).collect()
}
