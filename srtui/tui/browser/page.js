// The address that this page was opened by is the one to answer to: the port may have been forwarded.
document.addEventListener("DOMContentLoaded", () => {
  const terminal = document.getElementById("terminal");
  terminal.dataset.sessionWebsocketUrl = new URL("ws", location.href).href.replace(/^http/, "ws");
  const size = Number(new URLSearchParams(location.search).get("fontsize"));
  if (size >= 6 && size <= 48) terminal.dataset.fontSize = String(size);
});
