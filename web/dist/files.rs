// Made by web/build.mjs of web/src.
&[
    File {
        name: "app-71379bef9f.js",
        plain: include_bytes!("app-71379bef9f.js"),
        packed: include_bytes!("app-71379bef9f.js.gz"),
    },
    File {
        name: "index.html",
        plain: include_bytes!("index.html"),
        packed: include_bytes!("index.html.gz"),
    },
    File {
        name: "style-b7ed1b6c03.css",
        plain: include_bytes!("style-b7ed1b6c03.css"),
        packed: include_bytes!("style-b7ed1b6c03.css.gz"),
    },
    File {
        name: "theme-39b689f84e.js",
        plain: include_bytes!("theme-39b689f84e.js"),
        packed: include_bytes!("theme-39b689f84e.js.gz"),
    },
]
