//! Completions are sourced by the shells that are here; manual pages are rendered.

use std::process::{Command, Stdio};

use tempfile::tempdir;

use crate::program::{tidemark, tidemark_in};

#[test]
fn completions_exist_for_every_shell_and_bash_completes_a_verb() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let ran = tidemark(&["completions", shell]);
        assert_eq!(ran.code, 0);
        assert!(
            ran.out.contains("explain") && ran.out.contains("json"),
            "{shell}"
        );
    }
    let directory = tempdir().unwrap();
    let script = directory.path().join("tidemark.bash");
    std::fs::write(&script, tidemark(&["completions", "bash"]).out).unwrap();
    let asked = format!(
        "source {} && COMP_WORDS=(tidemark expl) COMP_CWORD=1 && _tidemark tidemark expl tidemark \
         && printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let output = Command::new("bash")
        .args(["-c", &asked])
        .output()
        .expect("bash is here");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "explain",
        "{output:?}"
    );
}

#[test]
fn zsh_and_fish_accept_their_completions() {
    let directory = tempdir().unwrap();
    for (shell, check) in [("zsh", "-n"), ("fish", "--no-execute")] {
        let script = directory.path().join(shell);
        std::fs::write(&script, tidemark(&["completions", shell]).out).unwrap();
        match Command::new(shell).arg(check).arg(&script).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {output:?}"),
            Err(_) => println!("skipped: {shell} is not installed"),
        }
    }
}

#[test]
fn manual_pages_render_without_warnings() {
    let directory = tempdir().unwrap();
    let ran = tidemark_in(directory.path(), &["man", "--directory", "man1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let pages: Vec<&str> = ran.out.lines().collect();
    assert!(pages.contains(&"man1/tidemark.1") && pages.contains(&"man1/tidemark-explain.1"));
    for page in pages {
        let page = directory.path().join(page);
        let rendered = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l"])
            .arg(&page)
            .env("MANROFFSEQ", "")
            .env("MANWIDTH", "80")
            .stdin(Stdio::null())
            .output();
        let Ok(output) = rendered else {
            println!("skipped: man is not installed");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        assert!(
            text.contains("EXAMPLES") && text.contains("EXIT STATUS"),
            "{text}"
        );
    }
}
