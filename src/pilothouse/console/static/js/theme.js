// Runs before the first paint, so that a chosen theme does not flash. A classic script on purpose.
try {
  const chosen = localStorage.getItem("pilothouse.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is switched off: the system's theme it is.
}
