//! The example does what it says. Cargo builds its program for this.

use std::process::{Command, Stdio};

#[test]
fn frames_cross_in_each_way_and_the_last_one_is_a_picture() {
    let directory = std::env::temp_dir().join(format!("witrpc-frames-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a directory");
    let picture = directory.join("frame.png");
    let mut frames = Command::new(env!("CARGO_BIN_EXE_frames"));
    let output = frames.arg(&picture).arg("3").stderr(Stdio::inherit()).output();
    let output = output.expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    let file = std::fs::File::open(&picture).expect("the picture");
    let png = png::Decoder::new(std::io::BufReader::new(file)).read_info().expect("a picture");
    assert_eq!((png.info().width, png.info().height), (1920, 1080));
    drop(png);
    std::fs::remove_dir_all(&directory).expect("it is ours");
    let ways = ["copied through the ring", "lent, and copied once", "lent, and read in place"];
    // Elsewhere it says why there is nothing to lend.
    let shown = if cfg!(target_os = "linux") { &ways[..] } else { &ways[..1] };
    for way in shown {
        let line = text.lines().find(|line| line.starts_with(way));
        assert!(line.is_some_and(|line| line.contains("frames/s")), "{way}: {text}");
    }
}
