// Made by web/build.mjs of web/src.
&[
    File {
        name: "app-55c90bc868.js",
        plain: include_bytes!("app-55c90bc868.js"),
        packed: include_bytes!("app-55c90bc868.js.gz"),
    },
    File {
        name: "index.html",
        plain: include_bytes!("index.html"),
        packed: include_bytes!("index.html.gz"),
    },
    File {
        name: "style-08c3614959.css",
        plain: include_bytes!("style-08c3614959.css"),
        packed: include_bytes!("style-08c3614959.css.gz"),
    },
    File {
        name: "theme-39b689f84e.js",
        plain: include_bytes!("theme-39b689f84e.js"),
        packed: include_bytes!("theme-39b689f84e.js.gz"),
    },
]
