// Made by web/build.mjs of web/src.
&[
    File {
        name: "app-b485535902.js",
        plain: include_bytes!("app-b485535902.js"),
        packed: include_bytes!("app-b485535902.js.gz"),
    },
    File {
        name: "index.html",
        plain: include_bytes!("index.html"),
        packed: include_bytes!("index.html.gz"),
    },
    File {
        name: "style-61c69dfebf.css",
        plain: include_bytes!("style-61c69dfebf.css"),
        packed: include_bytes!("style-61c69dfebf.css.gz"),
    },
    File {
        name: "theme-39b689f84e.js",
        plain: include_bytes!("theme-39b689f84e.js"),
        packed: include_bytes!("theme-39b689f84e.js.gz"),
    },
]
