//! Servers by name: remembered, chosen, asked where nothing else is said.

use std::path::Path;

use serde_json::json;

use crate::program::{Ran, command_in, ran};

const FILE: &str = "tidemark/contexts.toml";

fn tidemark(home: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = command_in(home, arguments);
    command
        .env("XDG_CONFIG_HOME", home)
        .envs(variables.iter().copied());
    ran(command)
}

#[test]
fn a_context_is_added_chosen_and_asked() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| tidemark(home.path(), arguments, &[]);
    let none = run(&["context", "list", "--json"]).envelope();
    assert_eq!(
        (&none["data"]["contexts"], &none["data"]["current"]),
        (&json!([]), &json!(null))
    );

    // What a person wrote stays.
    std::fs::create_dir(home.path().join("tidemark")).unwrap();
    let mine = "# mine\n[context.old] # too\nserver = \"http://127.0.0.1:2\"\n";
    std::fs::write(home.path().join(FILE), mine).unwrap();
    let added = run(&[
        "context",
        "add",
        "pro d",
        "http://127.0.0.1:1/",
        "--token-file",
        "t",
        "--json",
    ]);
    let added = added.envelope();
    let token = home.path().canonicalize().unwrap().join("t");
    assert_eq!(
        added["data"]["contexts"][0]["token_file"],
        token.to_str().unwrap()
    );
    assert_eq!(added["data"]["contexts"][0]["server"], "http://127.0.0.1:1");
    for wrong in [
        &["context", "add", "old", "http://127.0.0.1:1"][..],
        &["context", "add", "", "http://127.0.0.1:1"],
        &["context", "add", "new", "127.0.0.1"],
        &["context", "use", "ol"],
        &["context", "use"],
        &["context", "use", "old", "--none"],
    ] {
        assert_eq!(run(wrong).code, 2, "{wrong:?}");
    }
    assert_eq!(run(&["context", "use", "pro d"]).code, 0);
    assert_eq!(run(&["context", "use", "old"]).code, 0);
    let text = std::fs::read_to_string(home.path().join(FILE)).unwrap();
    assert!(
        text.starts_with("current = \"old\"\n# mine\n[context.old] # too\n"),
        "{text}"
    );
    let listed = run(&["context", "list"]).out;
    let is_marked = |line: &str| line.starts_with('*') && line.contains(" old ");
    assert!(listed.lines().any(is_marked), "{listed}");

    // It is asked where nothing else is said; a file is of this machine.
    let asked = |arguments: &[&str], variables: &[(&str, &str)]| {
        let arguments = [arguments, &["--json"]].concat();
        let said = tidemark(home.path(), &arguments, variables).envelope();
        let error = &said["error"];
        (
            error["code"].as_str().unwrap().to_owned(),
            error["detail"].as_str().unwrap().to_owned(),
        )
    };
    let (code, text) = asked(&["status", "shop"], &[]);
    assert!(
        code == "TM7070" && text.contains("127.0.0.1:2"),
        "{code} {text}"
    );
    let variable = [("TIDEMARK_SERVER", "http://127.0.0.1:3")];
    let (_, text) = asked(&["status", "shop"], &variable);
    assert!(text.contains("127.0.0.1:3"), "{text}");
    let (_, text) = asked(
        &["status", "shop", "--server", "http://127.0.0.1:4"],
        &variable,
    );
    assert!(text.contains("127.0.0.1:4"), "{text}");
    assert_eq!(asked(&["status", "./shop.toml"], &variable).0, "TM7014");
    assert_eq!(run(&["context", "use", "--none"]).code, 0);
    assert_eq!(asked(&["status", "shop"], &[]).0, "TM7045");
}
