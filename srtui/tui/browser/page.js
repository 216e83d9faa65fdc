document.addEventListener("DOMContentLoaded", () => {
  const terminal = document.getElementById("terminal");
  // The address that this page was opened by is the one to answer to: the port may have been forwarded.
  terminal.dataset.sessionWebsocketUrl = new URL("ws", location.href).href.replace(/^http/, "ws");
  const size = Number(new URLSearchParams(location.search).get("fontsize"));
  if (size >= 6 && size <= 48) terminal.dataset.fontSize = String(size);
  // Keys go to the dashboard from its first picture on, without a click.
  new MutationObserver((_, observer) => {
    const keys = terminal.querySelector("textarea");
    if (!keys || !document.body.classList.contains("-first-byte")) return;
    observer.disconnect();
    keys.focus();
  }).observe(document.body, { attributes: true });
});
