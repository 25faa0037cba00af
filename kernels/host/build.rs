//! Compiles the kernels of the folder above as plain C++, with the emulator.

use std::path::PathBuf;

fn main() {
    let kernels = PathBuf::from("..");
    println!("cargo:rerun-if-changed=..");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .define("SWITCHBACK_EMULATED", None)
        .flag("-Wno-unknown-pragmas")
        // fibers change stacks under the compiler's feet, and jump between them
        .flag("-fno-stack-protector")
        .flag("-U_FORTIFY_SOURCE")
        .include(&kernels)
        .file("emulator.cpp");
    // the sources are CUDA by their names
    build.flag("-x").flag("c++");
    let mut sources: Vec<PathBuf> = std::fs::read_dir(&kernels)
        .expect("the folder of kernels is the one above")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    build.files(sources);
    // kernels register themselves by name: nothing refers to them, and they must stay nevertheless
    build.link_lib_modifier("+whole-archive");
    build.compile("switchback_emulator");
}
