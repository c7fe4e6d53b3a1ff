// Before the first paint, so that nothing flashes.
try {
  const stored = localStorage.getItem("tidemark.theme");
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
} catch {
  // Without storage the system decides.
}
