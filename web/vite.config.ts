import { defineConfig } from "vite";

// The service serves every file under a hash of all of them (`dashboard/{version}/NAME`), so names need no hash of their own,
// and the page fills in the version. Files of the page name each other relatively.
export default defineConfig({
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  experimental: {
    renderBuiltUrl: (name, { hostType }) => (hostType === "html" ? `dashboard/{version}/${name}` : { relative: true }),
  },
  build: {
    outDir: "../usage_pipeline/api/dashboard/built",
    emptyOutDir: true,
    target: "es2022",
    // A file within a style or script would need `data:` in the page's policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      output: { entryFileNames: "page.js", chunkFileNames: "[name].js", assetFileNames: "[name][extname]" },
    },
  },
});
