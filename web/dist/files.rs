// Made by web/build.mjs of web/src.
&[
    File {
        name: "app-233a9acceb.js",
        plain: include_bytes!("app-233a9acceb.js"),
        packed: include_bytes!("app-233a9acceb.js.gz"),
    },
    File {
        name: "index.html",
        plain: include_bytes!("index.html"),
        packed: include_bytes!("index.html.gz"),
    },
    File {
        name: "style-01cd4b0e6f.css",
        plain: include_bytes!("style-01cd4b0e6f.css"),
        packed: include_bytes!("style-01cd4b0e6f.css.gz"),
    },
    File {
        name: "theme-39b689f84e.js",
        plain: include_bytes!("theme-39b689f84e.js"),
        packed: include_bytes!("theme-39b689f84e.js.gz"),
    },
]
