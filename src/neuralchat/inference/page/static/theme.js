// Before anything is drawn: the colours that were chosen, so that the page does not flash in others.
try {
  const chosen = localStorage.getItem("neuralchat.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // A browser that keeps nothing: as the system has it.
}
