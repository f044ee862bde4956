"""The style sheet of the HTML report: desktop and phone, light and dark."""

CSS = """
:root {
  color-scheme: light dark;
  --text: #1c2128; --muted: #57606a; --page: #ffffff; --card: #f5f7f9; --line: #d5dae0;
  --supported: #0b6e4f; --contradicted: #b03a06; --open: #57606a; --link: #0b5cad;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e3e8ee; --muted: #a3adb8; --page: #14181d; --card: #1e242b; --line: #39424d;
    --supported: #5fd0a5; --contradicted: #ff9b6b; --open: #a3adb8; --link: #7db9f5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; padding: 1.5rem; max-width: 66rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: break-word;
}
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 0.8rem; }
h3 { font-size: 1rem; margin: 1rem 0 0.3rem; }
p, ul { margin: 0.6rem 0; }
a { color: var(--link); }
section { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1.5rem; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 0.6rem 0.8rem; overflow-x: auto; font-size: 0.85rem;
}
figure { margin: 0; }
.picture {
  background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem;
  overflow-x: auto; text-align: center;
}
.picture img { max-width: 100%; height: auto; vertical-align: middle; }
figcaption { color: var(--muted); font-size: 0.9rem; margin: 0.5rem 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-size: 0.92rem; }
th, td { text-align: left; vertical-align: top; padding: 0.45rem 0.6rem; }
th { font-weight: 600; }
thead th { border-bottom: 2px solid var(--line); }
tbody tr { border-bottom: 1px solid var(--line); }
tr:target { background: var(--card); }
small { display: block; color: var(--muted); font-size: 0.85em; margin-top: 0.15rem; }
.claims td:nth-child(1) { width: 10.5rem; }
.claims td:nth-child(3) { width: 12rem; }
.claims td:nth-child(4) { width: 14rem; }
.summary td:nth-child(3) { white-space: nowrap; }
.environment th { width: 12rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 0.8rem; padding: 0; list-style: none; }
.tiles li {
  flex: 1 1 11rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 0.6rem 0.9rem;
}
.tiles b { display: block; font-size: 1.9rem; line-height: 1.1; }
.badge {
  display: inline-block; border: 1px solid currentColor; border-radius: 0.6rem;
  padding: 0.05rem 0.6rem; font-size: 0.85rem; font-weight: 600;
}
.tiles .badge { border: 0; padding: 0; }
.marks { display: inline-flex; flex-wrap: wrap; gap: 0.25rem; }
.mark {
  width: 1.6rem; height: 1.6rem; line-height: 1.5rem; text-align: center; font-weight: 700;
  border: 1px solid currentColor; border-radius: 4px; text-decoration: none;
}
.supported { color: var(--supported); }
.contradicted, .failed { color: var(--contradicted); }
.open, .within, .untestable { color: var(--open); }
.tiles li { color: var(--text); }
.error {
  border-left: 4px solid var(--contradicted); background: var(--card); padding: 0.6rem 0.8rem;
}
@media (max-width: 45rem) {
  body { padding: 0.9rem; }
  h1 { font-size: 1.45rem; }
  /* Wide pictures are scrolled, not shrunk until their labels cannot be read. */
  .picture { text-align: left; }
  .picture img { max-width: none; width: max(100%, calc(0.6 * var(--width))); }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .tiles li { flex-basis: 7rem; padding: 0.5rem 0.6rem; }
  .claims thead, .summary thead { display: none; }
  .claims td, .summary td { display: flex; gap: 0.6rem; padding: 0.2rem 0; }
  .claims td::before, .summary td::before {
    content: attr(data-label); flex: 0 0 5rem; color: var(--muted); font-size: 0.85em;
  }
  .claims td:nth-child(n) { width: auto; }
  .claims tr, .summary tr { display: block; padding: 0.6rem 0; }
  .environment th { width: 7rem; }
}
"""
