from __future__ import annotations
from tests.fastapi.conftest import *
async def test_smoke(site):
    c = site.client()
    r = await sign_in(c)
    print(r.status_code, r.text, r.headers)
    for path in ("/api/widgets","/api/who","/api/owners","/api/admins","/api/members","/api/program","/auth/session","/auth/sessions","/healthz","/readyz","/nope"):
        r = await c.get(path); print(path, r.status_code, r.text, dict(r.headers))
    r = await c.post("/api/widgets", json={"name":"a"}); print(r.status_code, r.text)
    r = await c.post("/api/widgets", json={"name":"a\0"}); print(r.status_code, r.text)
    r = await c.post("/api/widgets", json={"nme":"secret"}); print(r.status_code, r.text)
    async with site.app.state.tenantry.db.operator() as tx: pass
    r = await c.post("/api/twice"); print(r.status_code, r.text)
    r = await sign_in(c, tenant="nope"); print(r.status_code, r.text)
    r = await sign_in(c, password="nope"); print(r.status_code, r.text)
    r = await c.post("/auth/sign-out"); print(r.status_code, r.text, r.headers)
    r = await c.get("/api/widgets"); print(r.status_code, r.text, r.headers)
    import json; print(json.dumps((await c.get("/openapi.json")).json())[:6000])
