//! Whom flags let in, and where the others go.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config::{Cohort, Flag, FlagOf, HeaderIs, Otherwise, UserPrefix, Users};
use crate::ids::{ModelName, VersionName, Weight};
use crate::release::route::Route;
use crate::release::sticky::{StickyKey, bucket_of};

fn model() -> ModelName {
    "desk".parse().unwrap()
}

fn version(name: &str) -> VersionName {
    name.parse().unwrap()
}

fn percent(percent: f64) -> Weight {
    Weight::from_percent(percent).unwrap()
}

fn route(weights: &[(&str, f64)]) -> Route {
    Route::first(weights.iter().map(|(name, share)| (version(name), percent(*share))).collect()).unwrap()
}

fn open() -> Flag {
    Flag::open(FlagOf::Version)
}

fn users(names: &[&str]) -> Flag {
    let users = names.iter().map(|name| (*name).to_owned()).collect();
    Flag { cohorts: vec![Cohort::Users(Users { users })], ..open() }
}

fn off() -> Flag {
    Flag { enabled: false, ..open() }
}

/// The flags of the model (under the empty name) and of versions.
fn flags(all: &[(&str, Flag)]) -> Flags {
    let of = |name: &str| (!name.is_empty()).then(|| version(name));
    Flags::new(&model(), all.iter().map(|(name, flag)| (of(name), flag.clone())).collect())
}

fn named() -> Traits {
    Traits { who: Who::Named, headers: Vec::new() }
}

/// The version that a user gets, with `!` where a flag chose it; `-` where he is refused.
fn gets(flags: &Flags, route: &Route, user: &str, traits: &Traits) -> String {
    let key = StickyKey::from_user(user);
    match flags.choose(route, bucket_of(&key, &model()), &key, traits) {
        Choice::Refused => "-".to_owned(),
        Choice::Version(version, ChosenBy::Route) => version.to_string(),
        Choice::Version(version, ChosenBy::Flag) => format!("{version}!"),
        Choice::Canned(Canned { flag: None, text }) => format!("{text:?}"),
        Choice::Canned(Canned { flag: Some(flag), text }) => format!("{text:?} of {flag}"),
    }
}

#[test]
fn who_is_kept_from_a_version_gets_what_its_flag_says() {
    let all = route(&[("v4", 100.0)]);
    let split = route(&[("v1", 1.0), ("v2", 29.0), ("v4", 70.0)]);
    let promoted =
        route(&[("v1", 100.0)]).reweighted(BTreeMap::from([(version("v4"), Weight::FULL)])).unwrap();
    let to = |otherwise: Otherwise, flag: Flag| Flag { otherwise, ..flag };
    let v1 = || Otherwise::Version(version("v1"));
    let cases: &[(&str, Flags, &Route, &str)] = &[
        ("nobody has set a flag", flags(&[]), &all, "v4"),
        ("a flag that is open", flags(&[("v4", open()), ("", Flag::open(FlagOf::Model))]), &all, "v4"),
        ("he is in the cohort", flags(&[("v4", users(&["ada"]))]), &all, "v4"),
        ("he is in none", flags(&[("v4", to(v1(), users(&["bob"])))]), &all, "v1!"),
        ("its switch is off", flags(&[("v4", to(v1(), off()))]), &all, "v1!"),
        (
            "off, though he is in the cohort",
            flags(&[("v4", to(v1(), Flag { enabled: false, ..users(&["ada"]) }))]),
            &all,
            "v1!",
        ),
        (
            "a share of nobody",
            flags(&[("v4", to(v1(), Flag { percentage: Weight::ZERO, ..users(&["ada"]) }))]),
            &all,
            "v1!",
        ),
        ("nothing else is on the route", flags(&[("v4", off())]), &all, "-"),
        (
            "the other is closed, too, and nothing else is there",
            flags(&[("v4", to(v1(), off())), ("v1", off())]),
            &all,
            "-",
        ),
        (
            "nothing else is, but there is a version to roll back to",
            flags(&[("v4", off())]),
            &promoted,
            "v1!",
        ),
        ("and that is closed, too", flags(&[("v4", off()), ("v1", off())]), &promoted, "-"),
        ("he is refused", flags(&[("v4", to(Otherwise::Refuse, off()))]), &split, "-"),
        (
            "he gets a text, whatever else is on the route",
            flags(&[("v4", to(Otherwise::Answer("Later.".into()), off()))]),
            &split,
            "\"Later.\" of v4",
        ),
        (
            "the model's flag comes first",
            flags(&[
                ("", Flag { otherwise: Otherwise::Answer("Closed.".into()), ..off() }),
                ("v4", to(Otherwise::Answer("Later.".into()), off())),
            ]),
            &all,
            "\"Closed.\"",
        ),
        (
            "he is let in, and hears no text",
            flags(&[("v4", to(Otherwise::Answer("Later.".into()), users(&["ada"])))]),
            &all,
            "v4",
        ),
        // v4 is the heaviest, and so the stable one; of the rest v2 is
        ("the heaviest of the rest", flags(&[("v4", off())]), &split, "v2!"),
        ("the heaviest that is open", flags(&[("v4", off()), ("v2", off())]), &split, "v1!"),
        (
            "two that lead to each other",
            flags(&[("v4", to(v1(), off())), ("v1", to(Otherwise::Version(version("v4")), off()))]),
            &split,
            "v2!",
        ),
        ("the flag of another version", flags(&[("v2", off())]), &all, "v4"),
        ("the model is closed", flags(&[("", to(Otherwise::Refuse, off()))]), &all, "-"),
        ("the model leads elsewhere", flags(&[("", to(v1(), users(&["bob"])))]), &all, "v1!"),
        ("elsewhere is off", flags(&[("", to(v1(), off())), ("v1", off())]), &all, "-"),
    ];
    let on_v4 = |route: &Route| {
        let owns = |user: &String| gets(&flags(&[]), route, user, &named()) == "v4";
        (0..1000).map(|i| format!("ada-{i}")).find(owns).unwrap()
    };
    // a name that the route of three gives to v4
    let ada = on_v4(&split);
    for (what, flags, route, expected) in cases {
        let renamed = |flag: &Flag| {
            let mut flag = flag.clone();
            for cohort in &mut flag.cohorts {
                if let Cohort::Users(users) = cohort
                    && users.users.remove("ada")
                {
                    users.users.insert(ada.clone());
                }
            }
            flag
        };
        let all: BTreeMap<_, _> = [None, Some(version("v1")), Some(version("v2")), Some(version("v4"))]
            .into_iter()
            .map(|of| (of.clone(), renamed(&flags.get(of.as_ref()))))
            .collect();
        assert_eq!(gets(&Flags::new(&model(), all), route, &ada, &named()), *expected, "{what}");
    }
}

#[test]
fn a_cohort_is_a_header_a_beginning_or_a_list_and_holds_only_who_is_named() {
    let header = HeaderIs { header: "x-plan".to_owned(), is: ["beta".to_owned(), "gold".to_owned()].into() };
    let prefix = UserPrefix { user_prefix: "staff-".to_owned() };
    let mut flag = users(&["ada", "sk-key"]);
    flag.cohorts.extend([Cohort::Header(header), Cohort::UserPrefix(prefix)]);
    flag.otherwise = Otherwise::Refuse;
    let flags = flags(&[("v1", flag)]);
    assert_eq!(flags.headers().iter().map(|name| &**name).collect::<Vec<_>>(), ["x-plan"]);
    let route = route(&[("v1", 100.0)]);
    let plan =
        |plan: &str| Traits { who: Who::Nameless, headers: vec![(Arc::from("x-plan"), plan.to_owned())] };
    for (user, traits, is_in) in [
        ("ada", named(), true),
        ("staff-7", named(), true),
        ("bob", named(), false),
        ("staff", named(), false),
        ("bob", plan("gold"), true),
        ("bob", plan("Gold"), false),
        ("sk-key", Traits::default(), false),
        ("staff-7", Traits::default(), false),
    ] {
        let expected = if is_in { "v1" } else { "-" };
        assert_eq!(gets(&flags, &route, user, &traits), expected, "{user} {traits:?}");
    }
}

#[test]
fn whoever_names_a_version_meets_its_switch_and_the_whole_flag_of_the_model() {
    let key = StickyKey::from_user("ada");
    let may = |flags: &Flags| flags.admits_named(&version("v4"), &key, &named());
    assert!(may(&flags(&[("v4", users(&["bob"]))])), "shares and cohorts are about the route");
    assert!(may(&flags(&[("v4", Flag { percentage: Weight::ZERO, ..open() })])));
    assert!(!may(&flags(&[("v4", off())])));
    assert!(!may(&flags(&[("", off())])));
    assert!(!may(&flags(&[("", users(&["bob"]))])));
    assert!(may(&flags(&[("", users(&["ada"])), ("v1", off())])));
}

/// These numbers are a promise: a release that changes them lets others in.
#[test]
fn who_is_in_a_share_is_the_same_forever() {
    let share = |of: &str, share: f64| {
        let flags =
            flags(&[(of, Flag { percentage: percent(share), otherwise: Otherwise::Refuse, ..open() })]);
        let route = route(&[("v1", 100.0)]);
        let is_in = |i: &u32| gets(&flags, &route, &format!("user-{i}"), &named()) == "v1";
        (0..40).filter(is_in).collect::<Vec<u32>>()
    };
    insta::assert_debug_snapshot!([share("", 10.0), share("v1", 10.0)]);
}

#[test]
fn a_share_is_as_large_as_it_says_and_independent_of_the_route_and_of_other_flags() {
    let half = |otherwise| Flag { percentage: percent(50.0), otherwise, ..open() };
    let flags = flags(&[("v1", half(Otherwise::Refuse)), ("v2", half(Otherwise::Refuse))]);
    let route = route(&[("v1", 50.0), ("v2", 50.0)]);
    let mut counts = BTreeMap::new();
    for i in 0..20_000 {
        let key = StickyKey::from_user(&format!("user-{i}"));
        let on_v1 = route.owner(bucket_of(&key, &model())).as_str() == "v1";
        let is_in = |name: &str| flags.admits(&version(name), &key, &named());
        *counts.entry((on_v1, is_in("v1"), is_in("v2"))).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 8);
    // an eighth each, with six standard deviations of room
    assert!(counts.values().all(|count| (2_200..2_800).contains(count)), "{counts:?}");
}

proptest! {
    #[test]
    fn who_is_in_stays_in_while_the_share_grows(small in 0..=10_000_u16, more in 0..=10_000_u16, user in ".{0,20}", by_header: bool) {
        let at = |share: u16| {
            let percentage = Weight::from_basis_points(share.min(10_000)).unwrap();
            let header = HeaderIs { header: "x-plan".to_owned(), is: ["beta".to_owned()].into() };
            flags(&[("v1", Flag { percentage, cohorts: vec![Cohort::Header(header)], ..open() })])
        };
        let headers = if by_header { vec![(Arc::from("x-plan"), "beta".to_owned())] } else { Vec::new() };
        let traits = Traits { who: Who::Named, headers };
        let key = StickyKey::from_user(&user);
        let (before, after) = (at(small), at(small.saturating_add(more)));
        let is_in = |flags: &Flags| flags.admits(&version("v1"), &key, &traits);
        prop_assert!(!is_in(&before) || is_in(&after));
        prop_assert!(by_header || !is_in(&after));
    }

    #[test]
    fn nobody_gets_a_version_that_is_closed_to_him(
        shares in proptest::collection::vec(0..=10_000_u16, 4), weights in (1..40_u16, 1..40_u16), user in "[a-z]{1,8}", to in 0..4_usize,
    ) {
        let otherwise = |own: &str| match to {
            0 => Otherwise::Refuse,
            1 => Otherwise::Rest,
            2 if own != "v2" => Otherwise::Version(version("v2")),
            _ if own != "v3" => Otherwise::Version(version("v3")),
            _ => Otherwise::Rest,
        };
        let flag = |own: &str, share: u16| {
            Flag { percentage: Weight::from_basis_points(share).unwrap(), otherwise: otherwise(own), ..open() }
        };
        let flags = flags(&[("v1", flag("v1", shares[0])), ("v2", flag("v2", shares[1])), ("v3", flag("v3", shares[2]))]);
        let (a, b) = (f64::from(weights.0), f64::from(weights.1));
        let route = route(&[("v1", a), ("v2", b), ("v3", 100.0 - a - b)]);
        let key = StickyKey::from_user(&user);
        let bucket = bucket_of(&key, &model());
        if let Choice::Version(version, by) = flags.choose(&route, bucket, &key, &named()) {
            prop_assert!(flags.admits(version, &key, &named()));
            prop_assert_eq!(by == ChosenBy::Route, version == route.owner(bucket));
        }
    }
}
