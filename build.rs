//! Rebuilds when a migration is added, as `sqlx::migrate!` reads the folders while compiling; and, with the feature
//! `cuda`, compiles `kernels/*.cu` into one image for all GPUs that we name.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Ampere, Ada and Hopper in machine code; the last line is for those that come later, which the driver compiles.
const TARGETS: [&str; 4] = [
    "arch=compute_80,code=sm_80",
    "arch=compute_89,code=sm_89",
    "arch=compute_90a,code=sm_90a",
    "arch=compute_90,code=compute_90",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/store/migrations");
    println!("cargo:rerun-if-changed=src/store/shared/migrations");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_kernels();
    }
}

fn compile_kernels() {
    for variable in ["CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let kernels = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("kernels");

    // One image holds one program for each GPU, so all families are one source.
    let mut sources: Vec<PathBuf> = fs::read_dir(&kernels)
        .expect("kernels/ is there")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    println!("cargo:rerun-if-changed=kernels");
    let mut all = String::new();
    for source in &sources {
        let _ = writeln!(all, "#include \"{}\"", source.display());
    }
    let (source, image) = (out.join("kernels.cu"), out.join("kernels.fatbin"));
    fs::write(&source, all).expect("the build's own folder can be written");

    let nvcc = nvcc();
    let mut command = Command::new(&nvcc);
    command
        .args(["-std=c++17", "-O3", "--threads=0", "--resource-usage", "-fatbin", "-o"])
        .arg(&image)
        .arg("-I");
    command.arg(&kernels);
    for target in TARGETS {
        command.args(["-gencode", target]);
    }
    let output = command.arg(&source).output().unwrap_or_else(|error| {
        panic!(
            "{} cannot be run: {error}. Set CUDA_HOME to a CUDA 13 toolkit, or let kernels/toolchain.sh install one: \
             eval \"$(kernels/toolchain.sh)\"",
            nvcc.display()
        )
    });
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{} failed:\n{said}\n{printed}", nvcc.display());
    fs::write(out.join("resources.txt"), resources(&format!("{said}\n{printed}"))).expect("as above");
}

fn nvcc() -> PathBuf {
    let home = ["CUDA_HOME", "CUDA_PATH"].into_iter().find_map(env::var_os);
    home.map_or_else(|| PathBuf::from("nvcc"), |home| Path::new(&home).join("bin/nvcc"))
}

/// What ptxas says of each kernel on each GPU: a line each, in order.
fn resources(said: &str) -> String {
    let mut lines = BTreeMap::new();
    let mut current = None;
    let mut spills = String::new();
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let mut quoted = rest.split('\'');
            current = quoted.next().zip(quoted.nth(1));
        } else if line.contains("bytes stack frame") {
            line.trim().clone_into(&mut spills);
        } else if let (Some((_, used)), Some((kernel, target))) = (line.split_once("Used "), current) {
            // what follows the registers is what the source says itself
            let registers = used.split(' ').next().unwrap_or_default();
            lines.insert((kernel, target), format!("{registers} registers, {spills}"));
        }
    }
    let line = |((kernel, target), what): (&(&str, &str), &String)| format!("{kernel} {target}: {what}\n");
    lines.iter().map(line).collect()
}
