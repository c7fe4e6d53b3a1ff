try{const t=localStorage.getItem("tidemark.theme");(t==="light"||t==="dark")&&(document.documentElement.dataset.theme=t)}catch{}
