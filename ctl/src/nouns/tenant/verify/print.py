# What `isyctl tenant verify` has Odoo's shell do: print two pages as Odoo prints its reports, and say what is on them, in one line.
# Nothing is stored: the shell rolls back. The same on Odoo 16 to 19.
import io
import json

PAGE = """<html><body><main>
<div class="header"><p>isyone letterhead</p></div>
<div class="footer"><p>isyone foot</p></div>
<div class="article"><p class="text-uppercase">isyone prints ção</p><p class="d-none">isyone unstyled</p>
<div style="page-break-after: always"></div><p>isyone end</p></div>
</main></body></html>"""


def look(env):
    from odoo.tools.pdf import PdfFileReader

    report = env["ir.actions.report"]
    state = report.get_wkhtmltopdf_state()
    if state not in ("ok", "workers"):
        return {"state": state}
    bodies, _ids, header, footer, arguments = report._prepare_html(PAGE)
    pdf = report._run_wkhtmltopdf(bodies, header=header, footer=footer, specific_paperformat_args=arguments)
    pages = PdfFileReader(io.BytesIO(pdf), strict=False)
    count = pages.getNumPages()
    # Readers of before know letters of simple fonts only.
    texts = [pages.getPage(n) for n in range(min(count, 4))]
    text = "".join(t.extract_text() for t in texts if hasattr(t, "extract_text"))
    return {"state": "ok", "bytes": len(pdf), "pages": count, "text": text[:4000]}


try:
    said = look(env)  # noqa: F821  the shell's
except Exception as e:  # whatever it is, it is the answer
    said = {"state": "failed", "why": ("%s: %s" % (type(e).__name__, e))[:1000]}
print("\nisyone-print " + json.dumps(said), flush=True)
