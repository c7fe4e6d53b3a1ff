// Made by web/build.mjs of web/src.
&[
    File {
        name: "app-36c04c30d4.js",
        plain: include_bytes!("app-36c04c30d4.js"),
        packed: include_bytes!("app-36c04c30d4.js.gz"),
    },
    File {
        name: "index.html",
        plain: include_bytes!("index.html"),
        packed: include_bytes!("index.html.gz"),
    },
    File {
        name: "style-5c8d88aaa3.css",
        plain: include_bytes!("style-5c8d88aaa3.css"),
        packed: include_bytes!("style-5c8d88aaa3.css.gz"),
    },
    File {
        name: "theme-39b689f84e.js",
        plain: include_bytes!("theme-39b689f84e.js"),
        packed: include_bytes!("theme-39b689f84e.js.gz"),
    },
]
