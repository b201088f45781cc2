use std::os::unix::fs::symlink;

use super::*;

fn this_program() -> PathBuf {
    env::current_exe().unwrap()
}

/// What the loader has mapped here.
fn mapped() -> BTreeSet<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    paths.filter(|path| is_file(path)).collect()
}

#[test]
fn all_that_the_loader_maps_is_found() {
    let found = Programs::of(&Command::new(this_program()), &[]);
    let all = found.executables.iter().chain(&found.libraries);
    let all: BTreeSet<_> = all.map(|path| path.canonicalize().unwrap()).collect();
    let mapped = mapped();
    assert!(mapped.len() > 2, "this is a dynamic executable: {mapped:?}");
    assert!(mapped.is_subset(&all), "{:?}", mapped.difference(&all));
    // And not everything.
    assert!(all.len() < 30, "{all:#?}");
    let program = this_program();
    assert!(found.executables.contains(&program) && !found.is_loader(&program));
    assert_eq!(found.executables.iter().filter(|path| found.is_loader(path)).count(), 1);
}

#[test]
fn a_program_is_found_as_the_system_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    symlink(this_program(), folder.path().join("bin/tool")).unwrap();
    let in_folder = folder.path().join("bin/tool");
    let mut by_path = Command::new("tool");
    assert_eq!(executed(&by_path), None);
    by_path.env("PATH", format!("/nowhere:{}", folder.path().join("bin").display()));
    assert_eq!(executed(&by_path), Some(in_folder.clone()));
    let mut relative = Command::new("bin/tool");
    relative.current_dir(folder.path());
    assert_eq!(executed(&relative), Some(in_folder.clone()));
    assert!(Programs::of(&relative, &[]).libraries.len() > 1);
    assert!(Programs::of(&Command::new("/nowhere"), &[in_folder]).libraries.len() > 1);
    assert_eq!(Programs::of(&Command::new("/nowhere"), &[]).executables, BTreeSet::new());
}

#[test]
fn libraries_are_looked_for_where_the_environment_says() {
    let folder = tempfile::tempdir().unwrap();
    // Any library does; this one every program has.
    let name = "libc.so.6";
    let found = Programs::of(&Command::new(this_program()), &[]);
    let original = found.libraries.iter().find(|path| path.ends_with(name)).unwrap();
    let copy = folder.path().join(name);
    std::fs::copy(original, &copy).unwrap();
    let mut command = Command::new(this_program());
    command.env("LD_LIBRARY_PATH", format!(":{}:", folder.path().display()));
    assert!(Programs::of(&command, &[]).libraries.contains(&copy));
    let other = folder.path().join("other.so");
    std::fs::copy(original, &other).unwrap();
    let mut command = Command::new(this_program());
    command.env("LD_PRELOAD", &other);
    let found = Programs::of(&command, &[]).libraries;
    assert!(found.contains(&other) && !found.contains(&copy));
}

#[test]
fn scripts_have_interpreters() {
    let folder = tempfile::tempdir().unwrap();
    let [script, other] = ["script", "other"].map(|name| folder.path().join(name));
    std::fs::write(&script, format!("#! {} -x y\n", other.display())).unwrap();
    std::fs::write(&other, format!("#!{}\n", this_program().display())).unwrap();
    let found = Programs::of(&Command::new(&script), &[]);
    assert!(
        [&script, &other, &this_program()].iter().all(|path| found.executables.contains(*path))
    );
    assert!(found.libraries.len() > 1);
    // One that executes itself.
    std::fs::write(&script, format!("#!{}\n", script.display())).unwrap();
    assert_eq!(Programs::of(&Command::new(&script), &[]).executables.len(), 1);
    std::fs::write(&script, "#!").unwrap();
    assert_eq!(Programs::of(&Command::new(&script), &[]).executables.len(), 1);
}

#[test]
fn origin_is_the_folder_of_the_file() {
    let file = Path::new("/no/such/file");
    for (folder, expected) in [
        ("$ORIGIN/../lib", "/no/such/../lib"),
        ("${ORIGIN}", "/no/such"),
        ("/opt/lib", "/opt/lib"),
        ("$LIB", "$LIB"),
    ] {
        assert_eq!(with_origin(OsStr::new(folder), file), Path::new(expected));
    }
}

/// Whatever a hostile program says of itself, reading it ends, and takes little.
#[test]
fn files_that_lie_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("liar");
    let real = read(&this_program(), 1 << 20);
    let mut random = 0x1234_5678_u64;
    for round in 0..2000 {
        let mut bytes = real[..4096.min(real.len())].to_vec();
        for _ in 0..=round % 7 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(random >> 33).unwrap() % 1024;
            bytes[at.max(6)] = if random % 3 == 0 { 0xff } else { (random >> 20 & 0xff) as u8 };
        }
        std::fs::write(&path, &bytes).unwrap();
        let _read = Binary::read(&path);
    }
    for nothing in [&b""[..], b"\x7fELF", &[0; 64], &real[..64]] {
        std::fs::write(&path, nothing).unwrap();
        let binary = Binary::read(&path);
        assert!(binary.is_none_or(|binary| binary == Binary::default()));
    }
}
