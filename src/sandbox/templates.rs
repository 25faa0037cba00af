//! Templates, compiled once and rendered often; and texts that are rendered once.

use std::collections::HashSet;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use minijinja::{Environment, Error, Template, Value};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::failure::Failure;
use super::stack;
use super::threads::{After, LONGEST, Threads};

/// The longest source of a template.
const MOST_SOURCE: usize = 256 << 10;
/// How long one may take to compile. A long chain of operators takes the square of its length.
const LONGEST_COMPILATION: Duration = Duration::from_secs(10);
/// A thread whose stack may have been touched so deep, in levels, is worth its keep; a deeper one gives its memory back.
const SHALLOW: u64 = 20_000;

/// Templates of one owner, in an environment of their own.
#[derive(Debug)]
pub struct Templates {
    env: Arc<Environment<'static>>,
    threads: Threads,
}

impl Templates {
    /// Compiles templates by their names. One rendering may do about `fuel` template instructions, or write 64 times as many
    /// bytes of text. Blocks.
    pub fn compile(
        env: Environment<'static>,
        fuel: u64,
        sources: Vec<(&'static str, String)>,
    ) -> Result<Self, Failure> {
        let longest = sources.iter().map(|(_, source)| source.len()).max().unwrap_or(0);
        let env = on_a_stack_for(longest, move || {
            let mut env = boxed(env, fuel);
            for (name, source) in sources {
                env.add_template_owned(name, source).map_err(|e| Failure::of(&e))?;
            }
            Ok(env)
        })?;
        Ok(Self { env: Arc::new(env), threads: Threads::new(stack::for_fuel(fuel), LONGEST) })
    }

    /// The names that a template reads and that are neither its own nor the environment's, in order. Blocks.
    pub fn unknown_names(&self, name: &'static str) -> Result<Vec<String>, Failure> {
        let env = Arc::clone(&self.env);
        on_a_stack_for(MOST_SOURCE, move || {
            let template = env.get_template(name).map_err(|e| Failure::of(&e))?;
            Ok(unknown(&env, &template))
        })
    }

    /// Renders a template.
    pub async fn render(&self, name: &'static str, vars: Map<String, Json>) -> Result<String, Failure> {
        self.threads.run(self.rendering(name, vars)).await
    }

    /// Renders a template. Blocks.
    pub fn render_blocking(&self, name: &'static str, vars: Map<String, Json>) -> Result<String, Failure> {
        self.threads.run_blocking(self.rendering(name, vars))
    }

    fn rendering(
        &self,
        name: &'static str,
        vars: Map<String, Json>,
    ) -> impl FnOnce() -> (Result<String, Failure>, After) + Send + 'static {
        let env = Arc::clone(&self.env);
        move || rendered(env.get_template(name), vars)
    }
}

/// Renders texts that are templates, each once.
#[derive(Debug)]
pub struct Texts {
    fuel: u64,
    threads: Threads,
}

impl Texts {
    /// Each rendering has so much fuel.
    pub fn new(fuel: u64) -> Self {
        let stack = stack::for_fuel(fuel).max(stack::for_source(MOST_SOURCE));
        Self { fuel, threads: Threads::new(stack, LONGEST) }
    }

    /// The names that a text reads and that are neither its own nor the environment's, in order. Blocks.
    pub fn unknown_names(&self, env: Environment<'static>, text: &str) -> Result<Vec<String>, Failure> {
        let text = text.to_owned();
        on_a_stack_for(text.len(), move || {
            let template = env.template_from_str(&text).map_err(|e| Failure::of(&e))?;
            Ok(unknown(&env, &template))
        })
    }

    /// Puts variables into a text. Blocks.
    pub fn render_blocking(
        &self,
        env: Environment<'static>,
        text: &str,
        vars: Map<String, Json>,
    ) -> Result<String, Failure> {
        short_enough(text.len())?;
        let (env, text) = (boxed(env, self.fuel), text.to_owned());
        self.threads.run_blocking(move || rendered(env.template_from_str(&text), vars))
    }
}

fn unknown(env: &Environment<'_>, template: &Template<'_, '_>) -> Vec<String> {
    let globals: HashSet<&str> = env.globals().map(|(name, _)| name).collect();
    let names = template.undeclared_variables(false).into_iter();
    let mut names: Vec<_> = names.filter(|name| !globals.contains(name.as_str())).collect();
    names.sort();
    names
}

fn boxed(mut env: Environment<'static>, fuel: u64) -> Environment<'static> {
    env.set_fuel(Some(fuel));
    // so that errors name what is undefined; the values that they then hold are dropped where they are told
    env.set_debug(true);
    // it takes the cube of a value's depth, and is for who writes a template
    env.remove_filter("pprint");
    env
}

fn rendered(
    template: Result<Template<'_, '_>, Error>,
    vars: Map<String, Json>,
) -> (Result<String, Failure>, After) {
    let vars = match Value::deserialize(Json::Object(vars)) {
        Ok(vars) => vars,
        Err(error) => return (Err(Failure::other(error.to_string())), After::Stay),
    };
    match template.and_then(|template| template.render_captured(vars)) {
        Ok(captured) => {
            let used = captured.state().fuel_levels().map_or(0, |(used, _)| used);
            let after = if used > SHALLOW { After::Leave } else { After::Stay };
            (Ok(captured.into_output()), after)
        }
        // what it has used is not known
        Err(error) => (Err(Failure::of(&error)), After::Leave),
    }
}

fn short_enough(bytes: usize) -> Result<(), Failure> {
    if bytes <= MOST_SOURCE {
        return Ok(());
    }
    Err(Failure::other(format!(
        "the template has {bytes} bytes, more than the {MOST_SOURCE} that it may have"
    )))
}

/// Does what goes into a source as deep as that is nested.
fn on_a_stack_for<T: Send + 'static>(
    source: usize,
    job: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    short_enough(source)?;
    let (tell, told) = mpsc::sync_channel(1);
    let thread =
        std::thread::Builder::new().name("template".to_owned()).stack_size(stack::for_source(source));
    let thread = thread.spawn(move || drop(tell.send(job())));
    thread.map_err(|_| Failure::busy())?;
    told.recv_timeout(LONGEST_COMPILATION).unwrap_or_else(|why| match why {
        mpsc::RecvTimeoutError::Timeout => Err(Failure::endless()),
        mpsc::RecvTimeoutError::Disconnected => Err(Failure::other("compiling it panicked")),
    })
}
