// Made by web/build.mjs of web/src.
&[
    File {
        name: "app-7d13ed620c.js",
        plain: include_bytes!("app-7d13ed620c.js"),
        packed: include_bytes!("app-7d13ed620c.js.gz"),
    },
    File {
        name: "index.html",
        plain: include_bytes!("index.html"),
        packed: include_bytes!("index.html.gz"),
    },
    File {
        name: "style-c2afd8bf11.css",
        plain: include_bytes!("style-c2afd8bf11.css"),
        packed: include_bytes!("style-c2afd8bf11.css.gz"),
    },
    File {
        name: "theme-39b689f84e.js",
        plain: include_bytes!("theme-39b689f84e.js"),
        packed: include_bytes!("theme-39b689f84e.js.gz"),
    },
]
