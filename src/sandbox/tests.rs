//! What a template may try, and that the process outlives it.
//!
//! A stack that is full ends the process, whatever thread it is of. So what nests is rendered in a process of its own: this
//! test binary, begun once more for one test.

use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use minijinja::Environment;
use serde_json::{Map, json};

use super::threads::{After, Threads};
use super::*;

/// As much as a chat template has.
const FUEL: u64 = 500_000;
const NAME: &str = "poison";
const CHILD: &str = "SWITCHBACK_SANDBOX_TEST";

fn compiled(source: &str) -> Result<Templates, Failure> {
    let mut env = Environment::new();
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    Templates::compile(env, FUEL, vec![(NAME, source.to_owned())])
}

fn rendered(source: &str) -> Result<String, Failure> {
    compiled(source)?.render_blocking(NAME, Map::new())
}

/// Runs `body` in a process of its own, which must end well.
fn in_a_process(test: &str, body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("sandbox::tests::{test}"), "--nocapture"]).env(CHILD, "1");
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
}

/// What walks over a value that was nested.
const WALKS: [&str; 10] = [
    "",
    "{{ ns.x }}",
    "{{ ns.x ~ '' }}",
    "{{ ns.x == ns.y }}",
    "{{ ns.x < ns.y }}",
    "{{ ns.x|tojson }}",
    "{{ ns.x|string|length }}",
    "{{ [ns.x, ns.y]|unique|list|length }}",
    "{{ {ns.x: 1}|length }}",
    "{{ ns.x in [ns.y] }}",
];

#[test]
fn a_value_that_is_nested_as_deep_as_fuel_goes_overflows_no_stack() {
    in_a_process("a_value_that_is_nested_as_deep_as_fuel_goes_overflows_no_stack", || {
        let brackets = |open: &str, close: &str| format!("{}ns.x{}", open.repeat(60), close.repeat(60));
        // each so often that it costs about half of the fuel
        for (nest, times) in [
            (brackets("[", "]"), 2500),
            (brackets("{'a':", "}"), 1300),
            ("namespace(a=ns.x)".to_owned(), 24_000),
        ] {
            let put = |nest: &str, name: &str| {
                format!("{{% for i in range({times}) %}}{{% set ns.{name} = {nest} %}}{{% endfor %}}")
            };
            let both = put(&nest, "x") + &put(&nest.replace("ns.x", "ns.y"), "y");
            for walk in WALKS {
                let nested = if walk.contains("ns.y") { both.clone() } else { put(&nest, "x") };
                let source = format!("{{% set ns = namespace(x=['a'], y=['a']) %}}{nested}{walk}");
                let text = rendered(&source);
                assert!(text.is_ok() || !walk.is_empty(), "it should be deep, and is not: {text:?}");
            }
            let endless = put(&nest, "x").replace(&times.to_string(), "99999");
            let text = rendered(&format!("{{% set ns = namespace(x=['a']) %}}{endless}"));
            assert_eq!(text.unwrap_err().stopped, Stopped::OutOfFuel);
        }
    });
}

#[test]
fn a_source_that_is_nested_as_deep_as_it_is_long_overflows_no_stack() {
    in_a_process("a_source_that_is_nested_as_deep_as_it_is_long_overflows_no_stack", || {
        let long = |open: &str, one: &str, close: &str| {
            let room = (256 << 10) - open.len() - close.len();
            format!("{open}{}{close}", one.repeat(room / one.len()))
        };
        for source in [
            long("{{ 1", "+1", " }}"),
            long("{{ 1", "|e", " }}"),
            long("{{ 1", ".a", " }}"),
            long("{{ ", "-", "1 }}"),
            long("{{ ", "not ", "1 }}"),
            long("{{ ", "(", "1 }}"),
            long("{{ 1", "()", " }}"),
            long("{{ 1", " and 1", " }}"),
            long("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
            long("", "{% if 1 %}", ""),
        ] {
            if let Ok(templates) = compiled(&source) {
                templates.unknown_names(NAME).unwrap();
                drop(templates.render_blocking(NAME, Map::new()));
            }
        }
        // a text that is joined so often takes the square of its length
        // on a fast machine it ends in time
        let long = compiled(&long("{{ 1", "~1", " }}"));
        assert!(long.is_ok() || long.unwrap_err().stopped == Stopped::OutOfFuel);
        assert!(compiled(&" ".repeat((256 << 10) + 1)).is_err());
    });
}

#[test]
fn macros_blocks_and_loops_that_call_themselves_are_stopped() {
    for source in [
        "{% macro f(x) %}{{ f([x]) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{% call f(x) %}{{ caller() }}{% endcall %}{% endmacro %}{{ f(1) }}",
        "{% set ns = namespace(x=[1]) %}{% for a in [[1]] recursive %}{{ loop([[a]]) }}{% endfor %}",
        "{% include 'poison' %}",
        "{% extends 'poison' %}",
        "{% import 'poison' as p %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{{ 'x' * 10000000000 }}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
        "{{ range(100000000000) }}",
        "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ [] | attr('__class__') | attr('__base__') | list }}{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '%1000000000d' | format(1) }}",
    ] {
        let failure = rendered(source);
        assert!(failure.is_err(), "{source}: {failure:?}");
    }
}

#[test]
fn who_waits_for_what_does_not_end_waits_for_a_bounded_time_and_others_for_nothing() {
    // two lists that hold themselves many times are the same list twice, and compared item by item
    let twice = |name: &str| format!("{{% set ns.{name} = [ns.{name}, ns.{name}] %}}");
    let bomb = format!(
        "{{% set ns = namespace(x=[1], y=[1]) %}}{{% for i in range(29) %}}{}{}{{% endfor %}}{{{{ ns.x == ns.y }}}}",
        twice("x"),
        twice("y")
    );
    let bomb = compiled(&bomb).unwrap();
    let good = compiled("{{ who }}!").unwrap();
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| (Instant::now(), bomb.render_blocking(NAME, Map::new())));
        let vars = json!({"who": "Ada"});
        let text = good.render_blocking(NAME, vars.as_object().cloned().unwrap());
        assert_eq!(text.unwrap(), "Ada!");
        assert!(!stopped.is_finished());
        let (began, stopped) = stopped.join().unwrap();
        assert_eq!(stopped.unwrap_err().stopped, Stopped::OutOfFuel);
        assert!(began.elapsed() < Duration::from_mins(1));
    });
}

#[test]
fn jobs_that_do_not_end_take_a_bounded_number_of_threads_and_are_not_waited_for_again() {
    let threads = Threads::new(1 << 20, Duration::from_millis(500));
    let begun = std::sync::atomic::AtomicUsize::new(0);
    let begun = std::sync::Arc::new(begun);
    let (end, ended) = mpsc::channel::<()>();
    let ended = std::sync::Arc::new(parking_lot::Mutex::new(ended));
    let stuck = || {
        let (ended, begun) = (std::sync::Arc::clone(&ended), std::sync::Arc::clone(&begun));
        threads.run_blocking::<()>(move || {
            begun.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let _ = ended.lock().recv();
            (Ok(()), After::Stay)
        })
    };
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert!(stuck().is_err()));
        }
    });
    let job = || (Ok(7), After::Stay);
    // where a thread was late, it dropped its job, and takes the next
    while begun.load(std::sync::atomic::Ordering::SeqCst) < 4 {
        assert!(stuck().is_err());
    }
    // all are stuck by now, and whoever comes is told so
    let refused = threads.run_blocking(job);
    assert_eq!(refused.unwrap_err().stopped, Stopped::OutOfFuel);
    // they end after all, and the next job finds a thread
    drop(end);
    let until = Instant::now() + Duration::from_secs(20);
    let tries = std::iter::repeat_with(|| {
        std::thread::yield_now();
        threads.run_blocking(job).ok()
    });
    let found = tries.take_while(|_| Instant::now() < until).find_map(|found| found);
    assert_eq!(found, Some(7));
}

#[test]
fn a_job_that_panics_is_told_and_the_next_one_is_done() {
    let threads = Threads::new(1 << 20, Duration::from_secs(30));
    let failure = threads.run_blocking::<()>(|| panic!("a template's fault")).unwrap_err();
    assert!(matches!(&failure.stopped, Stopped::Failed(why) if why.contains("panicked")), "{failure:?}");
    assert_eq!(threads.run_blocking(|| (Ok(1), After::Leave)).unwrap(), 1);
    assert_eq!(threads.run_blocking(|| (Ok(2), After::Stay)).unwrap(), 2);
}
