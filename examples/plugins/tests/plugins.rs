//! The example does what it says. Cargo builds all of its programs for this.

use std::process::{Command, Stdio};

#[test]
fn the_plugins_log_ask_for_settings_and_one_is_started_again() {
    let host = Command::new(env!("CARGO_BIN_EXE_plugins")).stderr(Stdio::inherit()).output();
    let output = host.expect("the host runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    for line in [
        "  [upper] its prefix is \"\"\n",
        "  [reverse] its prefix is \"<- \"\n",
        "  upper: Ok(\"HELLO\")\n",
        "  reverse: Ok(\"<- olleh\")\n",
        "  upper: Ok(\"BOOM\")\n",
        "  reverse: Ok(\"<- moob\")\n",
        "  crash: Err(\"the connection is closed",
        "crash, once more:\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    assert_eq!(text.matches("  [crash] its prefix is \"\"\n").count(), 2, "{text}");
    assert_eq!(text.matches("  crash: Ok(\"hello\")\n").count(), 2, "{text}");
}
