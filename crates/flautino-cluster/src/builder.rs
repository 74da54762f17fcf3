//! The options of a cluster, and its start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;

use crate::binaries::Binaries;
use crate::cluster::Cluster;
use crate::context::Context;
use crate::error::ClusterError;
use crate::home::Home;
use crate::node::Node;
use crate::ports::HeldPort;
use crate::program::{Runner, Unprivileged};
use crate::settings::Settings;
use crate::sweep::sweep;
use crate::wait::blocking;

/// The options of a [`Cluster`], made by [`Cluster::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing runs before start()"]
pub struct Builder {
    replicas: usize,
    cascading: usize,
    settings: Settings,
    files: Vec<(String, String)>,
    bin_dir: Option<PathBuf>,
    temp_dir: Option<PathBuf>,
    timeout: Duration,
    primary_port: Option<u16>,
}

impl Cluster {
    /// A builder with the defaults: one node, without replicas.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            replicas: 0,
            cascading: 0,
            settings: Settings::default(),
            files: Vec::new(),
            bin_dir: None,
            temp_dir: None,
            timeout: Duration::from_secs(30),
            primary_port: None,
        }
    }
}

impl Builder {
    /// How many replicas stream from the primary (0).
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// How many further replicas stream from the first replica (0).
    pub fn cascading(mut self, count: usize) -> Self {
        self.cascading = count;
        self
    }

    /// A setting of `postgresql.conf` on all nodes, such as `("max_connections", "20")`; the last
    /// of a name wins. The port and what ties the nodes together are the cluster's own.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.set(name.into(), value.into());
        self
    }

    /// A file in the data directory of each node, there before it starts, which only the server can read. So
    /// servers are made to speak TLS:
    ///
    /// ```no_run
    /// # async fn example(certificate: &str, key: &str) -> Result<(), flautino_cluster::ClusterError> {
    /// let builder = flautino_cluster::Cluster::builder().setting("ssl", "on");
    /// let cluster = builder.file("server.crt", certificate).file("server.key", key).start().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// See [`Node::write_file`](crate::Node::write_file) for replacing it.
    pub fn file(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.files.push((name.into(), text.into()));
        self
    }

    /// The folder of `initdb`, `postgres` and `pg_ctl`. By default the one that the environment
    /// variable `FLAUTINO_PG_BIN` names, else the one found in `PATH`, by `pg_config --bindir`, or
    /// as the newest in the usual places of Debian, Red Hat and Homebrew.
    pub fn bin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.bin_dir = Some(dir.into());
        self
    }

    /// Where the cluster's folder is made ([`std::env::temp_dir`], which is `TMPDIR` or `/tmp`).
    ///
    /// Files in memory, such as Linux's `/dev/shm`, make the start of a primary and two replicas
    /// take well under a second. On ext4 it takes one to three: the more of clusters was removed
    /// in the seconds before, the longer, since ext4 looks past recently deleted inodes.
    pub fn temp_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.temp_dir = Some(dir.into());
        self
    }

    /// How long each single step may take, such as the start of a server (30 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The port that the primary takes if it is free (one at random).
    pub fn primary_port(mut self, port: u16) -> Self {
        self.primary_port = Some(port);
        self
    }

    /// Starts all nodes, and waits until every replica streams. Clusters that a killed process
    /// left behind are removed first.
    ///
    /// # Errors
    ///
    /// When PostgreSQL is not found, a setting is refused, or a node does not come up in time; with
    /// the end of its log.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, what was started is ended and removed.
    pub async fn start(self) -> Result<Cluster, ClusterError> {
        if self.cascading > 0 && self.replicas == 0 {
            let why =
                "cascading replicas stream from a replica, and there is none; add replicas(1)";
            return Err(ClusterError::Invalid(why.to_owned()));
        }
        let (replicas, cascading) = (self.replicas, self.cascading);
        let (cluster, pristine) = self.lay_out().await?;

        // They come into the cluster when they run. If this fails before, each is ended by its own drop.
        let standbys = |count: usize| -> Result<Vec<Node>, ClusterError> {
            (0..count).map(|_| Node::new(&cluster.next_name(), None, cluster.context())).collect()
        };
        let (direct, cascaded) = (standbys(replicas)?, standbys(cascading)?);
        if pristine {
            cluster.primary().seed(direct.iter().chain(&cascaded)).await?;
        }
        cluster.primary().bring_up(true).await?;
        let primary = cluster.primary();
        try_join_all(direct.iter().map(|node| join(node, primary, pristine))).await?;
        if let Some(first) = direct.first() {
            try_join_all(cascaded.iter().map(|node| join(node, first, pristine))).await?;
        }
        for node in direct.into_iter().chain(cascaded) {
            cluster.push(node);
        }
        Ok(cluster)
    }

    /// Makes the cluster's folder and the primary's data directory. Returns also whether replicas may
    /// start from a copy of that.
    async fn lay_out(self) -> Result<(Cluster, bool), ClusterError> {
        let Self { settings, files, bin_dir, temp_dir, timeout, primary_port, .. } = self;
        settings.check()?;
        let pristine = settings.allow_pristine_standby();
        let binaries = find_programs(bin_dir).await?;
        let prepare = move || -> Result<Arc<Context>, ClusterError> {
            let user = Unprivileged::needed()?;
            let parent = temp_dir.unwrap_or_else(std::env::temp_dir);
            sweep(&parent);
            let home = Home::create(&parent)?;
            if let Some(user) = &user {
                user.check_reach(home.path())?;
            }
            let runner = Runner { binaries, user };
            Ok(Arc::new(Context { runner, settings, timeout, home }))
        };
        let context = blocking(prepare).await?;
        let port = primary_port.and_then(|port| HeldPort::hold(port).ok());
        let primary = Node::new("primary", port, &context)?;
        // Each cluster runs initdb, although copying one result would save half a second, since
        // clusters must differ in their system identifiers.
        primary.initialise().await?;
        // Replicas are copies of it.
        for (name, text) in files {
            primary.write_file(&name, &text)?;
        }
        Ok((Cluster::new(primary, context), pristine))
    }
}

/// The programs of the machine. With the feature `embedded` they are fetched where it has none, or only old ones,
/// and the user names no others.
pub(crate) async fn find_programs(named: Option<PathBuf>) -> Result<Binaries, ClusterError> {
    #[cfg(feature = "embedded")]
    let are_named = Binaries::are_named(named.as_deref());
    let found = blocking(move || Binaries::find(named.as_deref())).await;
    match found {
        #[cfg(feature = "embedded")]
        Err(ClusterError::NoBinaries { .. } | ClusterError::UnsupportedVersion { .. })
            if !are_named =>
        {
            let bin = crate::fetch::fetched().await?;
            blocking(move || Binaries::named(&bin)).await
        }
        found => found,
    }
}

async fn join(node: &Node, upstream: &Node, pristine: bool) -> Result<(), ClusterError> {
    if !pristine {
        node.copy_from(upstream).await?;
    }
    node.start_as_replica(upstream, true).await
}
